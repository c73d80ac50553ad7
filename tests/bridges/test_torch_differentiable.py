"""Values, gradients, and all that torch may do with them, against the kernels and the dense oracle."""

import io
import shutil
import time

import numpy as np
import pytest

import primeattn as pa
from primeattn.kernels import reference

torch = pytest.importorskip("torch")
pt = pytest.importorskip("primeattn.torch")

PATTERN = pa.Pattern("primes", window=2, global_tokens=2)
OTHER = pa.Pattern("squares", window=1)
EACH = (PATTERN, OTHER, PATTERN, pa.Pattern([2, 5]))


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, dtype=torch.float64, leaf=True):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(leaf)

    return draw


@pytest.fixture
def qkv(draw):
    return draw(2, 4, 13, 8), draw(2, 2, 13, 8), draw(2, 2, 13, 8)


def biases(draw, pattern, heads, n, dtype=torch.float64):
    patterns = [pattern] * heads if isinstance(pattern, pa.Pattern) else pattern
    offsets = max(p.offsets(n).size for p in patterns)
    return {
        "offset_bias": draw(heads, offsets, dtype=dtype),
        "global_bias": draw(heads, max(p.global_tokens for p in patterns), dtype=dtype),
        "slopes": draw(heads, dtype=dtype).detach().abs(),
    }


def arrays(tensors):
    return [tensor.detach().numpy() for tensor in tensors]


def loss(q, k, v, **options):
    out, lse = pt.attention(q, k, v, PATTERN, return_lse=True, **options)
    return (out.sin().sum() + lse.cos().sum()).to(torch.float64)


@pytest.mark.parametrize("pattern", [PATTERN, EACH, list(EACH)], ids=["one", "per head", "list"])
def test_values_are_those_of_the_kernel(draw, qkv, pattern):
    options = {"scale": 0.3, "softcap": 2.0, "dropout": 0.25, "dropout_seed": 2**64 - 3}
    options |= {"q_start": 1, "k_start": np.array([-1, 2])}
    terms = biases(draw, pattern, 4, 20)
    out, lse = pt.attention(*qkv, pattern, return_lse=True, **options, **terms)
    terms = {name: tensor.detach().numpy() for name, tensor in terms.items()}
    expected = pa.attention(*arrays(qkv), pattern, **options, **terms)
    assert np.array_equal(out.detach(), expected[0]) and np.array_equal(lse.detach(), expected[1])


def test_packed_sequences_and_positions_may_be_tensors(draw):
    q, k, v = draw(3, 1, 2, 20, 8).unbind()
    bounds = [0, 7, 20]
    expected, _ = pa.attention(*arrays((q, k, v)), PATTERN, cu_seqlens=np.array(bounds))
    for given in (bounds, np.array(bounds), torch.tensor(bounds), torch.tensor(bounds, dtype=torch.int32)):
        assert np.array_equal(pt.attention(q, k, v, PATTERN, cu_seqlens=given).detach(), expected)
    expected, _ = pa.attention(*arrays((q[:, :, 9:], k, v)), PATTERN, q_start=9)
    for given in (9, np.int64(9), torch.tensor([9])):
        assert np.array_equal(pt.attention(q[:, :, 9:], k, v, PATTERN, q_start=given).detach(), expected)


def test_gradients_are_those_of_the_oracle(draw, qkv):
    out, lse = pt.attention(*qkv, EACH, return_lse=True)
    dout, dlse = draw(*out.shape, leaf=False), draw(*lse.shape, leaf=False)
    gradients = torch.autograd.grad((out, lse), qkv, (dout, dlse))
    q, k, v, *given = arrays((*qkv, dout, out, lse, dlse))
    expected = reference.backward(given[0], q, k, v, given[1], given[2], EACH, dlse=given[3])
    for gradient, other in zip(gradients, expected, strict=False):
        np.testing.assert_allclose(gradient, other, rtol=1e-9, atol=1e-11)


def test_gradcheck_with_all_terms(draw):
    q, k, v = draw(1, 2, 7, 3), draw(1, 1, 7, 3), draw(1, 1, 7, 3)
    terms = biases(draw, PATTERN, 2, 7)
    slopes = terms.pop("slopes")

    def run(q, k, v, offset_bias, global_bias):
        options = {"offset_bias": offset_bias, "global_bias": global_bias, "slopes": slopes, "softcap": 1.5}
        options |= {"dropout": 0.2, "dropout_seed": 5}
        return pt.attention(q, k, v, PATTERN, return_lse=True, **options)

    assert torch.autograd.gradcheck(run, (q, k, v, *terms.values()))


def test_gradcheck_of_strided_and_expanded_inputs(draw):
    base = draw(1, 9, 2, 4)  # (batch, seq, heads, head_dim)
    swapped = draw(1, 2, 4, 9)  # the last axis is not contiguous
    row = draw(1, 1, 9, 4)

    def run(base, swapped, row):
        return pt.attention(base.transpose(1, 2), swapped.transpose(2, 3), row.expand(1, 2, 9, 4), PATTERN)

    assert torch.autograd.gradcheck(run, (base, swapped, row))
    column = draw(1, 2, 9, 1)
    assert torch.autograd.gradcheck(lambda x: pt.attention(*[x.expand(1, 2, 9, 4)] * 3, OTHER), (column,))


def test_an_expanded_gradient(qkv):
    pt.attention(*qkv, PATTERN).sum().backward()
    got = [x.grad.clone() for x in qkv]
    expected = torch.autograd.grad(pt.attention(*qkv, PATTERN), qkv, torch.ones(2, 4, 13, 8).double())
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_opcheck(draw):
    q, k, v = (draw(2, heads, 9, 4, leaf=False) for heads in (4, 2, 2))
    offset_bias, global_bias, slopes = (x.detach() for x in biases(draw, PATTERN, 4, 9).values())
    text = pt.operators.pattern_text(PATTERN)
    numbers = text, None, 3.0, 0.25
    plain = (None, None, None, None, None, None, None, text, None, None, 0.0)
    starts = torch.tensor(1), torch.tensor([0, -1]), None, torch.tensor(7)
    terms = (offset_bias.new_zeros(4, 20), global_bias, slopes, *starts, *numbers)
    for options in (plain, terms):
        for rows in (
            (q, k, v),
            (q.mT.contiguous().mT, k, v),
            [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)],
        ):
            torch.library.opcheck(torch.ops.primeattn.attend, (*rows, *options))
            out, lse = pt.operators.attend(*rows, *options)
            saved = torch.ones_like(out), torch.zeros_like(lse), *rows, out, lse
            torch.library.opcheck(torch.ops.primeattn.attend_backward, (*saved, *options))


def test_compiled_forward_and_backward(draw, qkv):
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    terms = biases(draw, PATTERN, 4, 20)
    for options in ({}, terms | {"softcap": 2.0, "dropout": 0.3, "dropout_seed": 4, "q_start": 2}):
        learned = [x for x in (*qkv, *options.values()) if isinstance(x, torch.Tensor) and x.requires_grad]
        values = [run(*qkv, **options) for run in (compiled, loss)]
        torch.testing.assert_close(*values)
        gradients = [torch.autograd.grad(value, learned) for value in values]
        torch.testing.assert_close(*gradients)


def test_positions_are_those_of_the_forward(qkv):
    start = np.array([1, 2])
    expected = torch.autograd.grad(loss(*qkv, q_start=start), qkv)
    value = loss(*qkv, q_start=start)
    start[:] = 9
    assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(value, qkv), expected, strict=True))
    start = torch.tensor([1, 2])
    value = loss(*qkv, q_start=start)
    start += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_the_same_tensor_may_come_twice(draw):
    x, start = draw(2, 2, 11, 4), torch.tensor([-2, 0])

    def run(x):
        return loss(x, x, x, q_start=start, k_start=start)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x), torch.autograd.grad(run(x), x))


def test_a_compiled_function_notices_another_pattern(qkv):
    compiled = torch.compile(pt.attention, fullgraph=True, backend="aot_eager")
    for pattern in (PATTERN, OTHER, EACH, EACH[::-1], PATTERN):
        torch.testing.assert_close(compiled(*qkv, pattern), pt.attention(*qkv, pattern))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch needs g++")
def test_compiled_to_machine_code(qkv):
    gradients = [
        torch.autograd.grad(run(*qkv), qkv)
        for run in (loss, torch.compile(loss, fullgraph=True, dynamic=True))
    ]
    torch.testing.assert_close(*gradients)


class Attention(torch.nn.Module):
    def forward(self, q, k, v):
        return pt.attention(q, k, v, PATTERN)


def test_exported_for_any_length(qkv, draw):
    length = torch.export.Dim("length", min=2, max=1000)
    shapes = {name: {2: length} for name in "qkv"}
    program = torch.export.export(Attention(), tuple(x.detach() for x in qkv), dynamic_shapes=shapes)
    q, k, v = draw(2, 4, 30, 8), draw(2, 2, 30, 8), draw(2, 2, 30, 8)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for one in (program, torch.export.load(file)):
        torch.testing.assert_close(one.module()(q, k, v), pt.attention(q, k, v, PATTERN))


def test_func_grad_and_vmap(draw):
    q, k, v = (
        draw(3, 1, 2, 11, 4, leaf=False),
        draw(3, 1, 2, 11, 4, leaf=False),
        draw(1, 2, 11, 4, leaf=False),
    )
    gradient = torch.func.grad(loss, argnums=(0, 1, 2))
    expected = [gradient(q[i], k[i], v) for i in range(3)]
    got = torch.func.vmap(gradient, in_dims=(0, 0, None))(q, k, v)
    torch.testing.assert_close(got, tuple(map(torch.stack, zip(*expected, strict=True))))
    swapped = torch.func.vmap(pt.attention, in_dims=(2, 2, None, None))(
        q.movedim(0, 2), k.movedim(0, 2), v, OTHER
    )
    torch.testing.assert_close(swapped, torch.stack([pt.attention(q[i], k[i], v, OTHER) for i in range(3)]))
    leaves = [x.clone().requires_grad_() for x in (q[0], k[0], v)]
    torch.testing.assert_close(expected[0], torch.autograd.grad(loss(*leaves), leaves))


def test_vmap_with_terms_equals_calls_one_by_one(draw):
    q, k, v = (draw(3, 1, 2, 11, 4, leaf=False) for _ in range(3))
    bias = draw(3, 2, PATTERN.offsets(11).size, leaf=False)
    shared = draw(2, 2, leaf=False)

    def run(q, k, v, bias):
        options = {"offset_bias": bias, "global_bias": shared, "dropout": 0.3, "dropout_seed": 3}
        return loss(q, k, v, **options)

    gradient = torch.func.grad(run, argnums=(0, 1, 2, 3))
    expected = [gradient(q[i], k[i], v[i], bias[i]) for i in range(3)]
    got = torch.func.vmap(gradient)(q, k, v, bias)
    torch.testing.assert_close(got, tuple(map(torch.stack, zip(*expected, strict=True))))


def test_jacrev(draw):
    q, k, v = draw(1, 1, 5, 2), draw(1, 1, 5, 2), draw(1, 1, 5, 2)
    got = torch.func.jacrev(lambda q: pt.attention(q, k, v, PATTERN))(q)
    expected = torch.autograd.functional.jacobian(lambda q: pt.attention(q, k, v, PATTERN), q)
    torch.testing.assert_close(got, expected)


def test_second_derivatives_and_forward_mode_raise(qkv):
    q, k, v = qkv
    (dq,) = torch.autograd.grad(loss(q, k, v), q, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        dq.sum().backward()
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.func.grad(lambda q: torch.func.grad(loss)(q, k, v).sum())(q)
    with pytest.raises(RuntimeError, match="forward"):
        torch.func.jvp(lambda q: loss(q, k, v), (q,), (torch.ones_like(q),))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward"):
        loss(torch.autograd.forward_ad.make_dual(q, torch.ones_like(q)), k, v)


def test_seeds_and_positions_under_vmap_and_compile(draw):
    q = draw(1, 2, 11, 4)

    def run(q, start, seed):
        return pt.attention(q, q, q, PATTERN, q_start=start, scale=0.5, dropout=0.3, dropout_seed=seed)

    got = torch.func.vmap(run, (None, 0, 0), randomness="error")(q, torch.arange(3), torch.arange(4, 7))
    torch.testing.assert_close(got, torch.stack([run(q, i, 4 + i) for i in range(3)]))
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for start, seed in ((0, 0), (1, 5), (2, 2**64 - 1), (torch.tensor([3]), torch.tensor(7)), (4, 2**63)):
        assert torch.equal(compiled(q, start, seed), run(q, start, seed))


def test_no_gradient_of_slopes_is_asked_for(draw):
    q = draw(1, 2, 11, 4)
    with pytest.raises(ValueError, match=r"^slopes: expected a tensor that requires no gradient"):
        torch.func.grad(lambda slopes: loss(q, q, q, slopes=slopes))(torch.ones(2).double())


def test_checkpointing(qkv):
    from torch.utils.checkpoint import checkpoint

    options = {"dropout": 0.3, "dropout_seed": 8}
    expected = torch.autograd.grad(loss(*qkv, **options), qkv)
    got = torch.autograd.grad(checkpoint(loss, *qkv, use_reentrant=False, **options), qkv)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32_and_rounded_once(draw, dtype):
    q, k, v = (draw(1, 2, 30, 8, dtype=dtype) for _ in range(3))
    out, lse = pt.attention(q, k, v, PATTERN, return_lse=True)
    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    expected, expected_lse = pt.attention(*wide, PATTERN, return_lse=True)
    assert out.dtype == dtype and torch.equal(out, expected.to(dtype))
    assert lse.dtype == torch.float32 and torch.equal(lse, expected_lse)
    dout = draw(1, 2, 30, 8, dtype=dtype, leaf=False)
    got, expected = (
        torch.autograd.grad(out, (q, k, v), dout),
        torch.autograd.grad(expected, wide, dout.float()),
    )
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.float(), b, rtol=0.02, atol=0.02)


def test_autocast(draw):
    q, k, v = (draw(1, 2, 30, 8, dtype=torch.float32) for _ in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = pt.attention(q, k.bfloat16(), v, PATTERN)
    assert torch.equal(out, pt.attention(*(x.bfloat16() for x in (q, k, v)), PATTERN))
    out.float().sum().backward()
    assert q.grad.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pt.attention(*(x.double() for x in (q, k, v)), PATTERN).dtype == torch.float64


def test_autocast_compiled(draw):
    q, k, v = (draw(1, 2, 30, 8, dtype=torch.float32) for _ in range(3))
    compiled = torch.compile(pt.attention, fullgraph=True, backend="aot_eager")
    plain = compiled(q, k, v, PATTERN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compiled(q, k, v, PATTERN), pt.attention(q, k, v, PATTERN))
    assert plain.dtype == torch.float32


def test_bfloat16_is_as_exact_as_that_of_torch(draw):
    q, k, v = (draw(2, 4, 256, 64, dtype=torch.bfloat16, leaf=False) for _ in range(3))
    dense = torch.nn.functional.scaled_dot_product_attention
    exact = dense(q.double(), k.double(), v.double(), is_causal=True)
    ours = pt.attention(q, k, v, pa.Pattern(None, window=255)).double() - exact
    theirs = dense(q, k, v, is_causal=True).double() - exact
    assert ours.abs().max() <= 1.1 * theirs.abs().max() and ours.norm() <= 1.1 * theirs.norm()


def test_nothing_to_attend(draw):
    for shape in ((0, 2, 5, 4), (2, 2, 0, 4)):
        q, k, v = (draw(*shape) for _ in range(3))
        out = pt.attention(q, k, v, PATTERN)
        assert out.shape == shape
        assert [x.shape for x in torch.autograd.grad(out.sum(), (q, k, v))] == [shape] * 3


@pytest.mark.slow  # measures
def test_the_operator_costs_little(draw, threads):
    """No more than 15,000 turns of a loop, 0.3 ms on a quiet machine; a busy one takes longer for both."""
    threads(1)
    q, k, v = (draw(1, 8, 256, 64, dtype=torch.float32) for _ in range(3))
    arrays = [x.detach().numpy() for x in (q, k, v)]
    out, lse = np.empty_like(arrays[0]), np.empty(q.shape[:3], np.float32)

    def loop():
        total = 0
        for turn in range(15_000):
            total += turn

    runs = {
        "kernel": lambda: pa.sparse_index_kernel(out, lse, *arrays, PATTERN),
        "operator": lambda: pt.attention(q, k, v, PATTERN),
        "loop": loop,
    }
    times = {name: [] for name in runs}
    for _ in range(500):
        for name, run in runs.items():
            begin = time.thread_time()
            run()
            times[name].append(time.thread_time() - begin)
    least = {name: min(spent) for name, spent in times.items()}
    assert least["operator"] - least["kernel"] < least["loop"]


def test_out_has_the_order_of_axes_of_q(draw):
    q, k, v = draw(2, 11, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind()  # (batch, seq, [q|k|v], heads, head_dim)
    out = pt.attention(q, k, v, PATTERN)
    assert out.transpose(1, 2).is_contiguous()
    dense = [x.contiguous() for x in (q, k, v)]
    assert torch.equal(out, pt.attention(*dense, PATTERN))


def test_errors_name_the_argument(draw, qkv):
    q, k, v = qkv
    with pytest.raises(TypeError, match=r"^q: expected a torch tensor, got ndarray"):
        pt.attention(q.detach().numpy(), k, v, PATTERN)
    with pytest.raises(TypeError, match=r"^q: expected a tensor of floats, got torch.int64"):
        pt.attention(*(x.long() for x in qkv), PATTERN)
    with pytest.raises(TypeError, match=r"^v: expected the dtype of q, torch.float64, got torch.float32"):
        pt.attention(q, k, v.float(), PATTERN)
    with pytest.raises(ValueError, match=r"^k: expected a tensor on cpu as q is, got one on meta"):
        pt.attention(q, k.to("meta"), v, PATTERN)
    with pytest.raises(ValueError, match=r"^k: expected a number of heads"):
        pt.attention(q, q[:, :3], q[:, :3], PATTERN)
    with pytest.raises(TypeError, match=r"^pattern: expected a Pattern or one per head, got 'primes'"):
        pt.attention(q, k, v, "primes")
    with pytest.raises(ValueError, match=r"^pattern: expected one Pattern or 4"):
        pt.attention(q, k, v, EACH[:3])
    with pytest.raises(TypeError, match=r"^pattern: .*a callable cannot be written as JSON"):
        pt.attention(q, k, v, pa.Pattern(lambda n: np.arange(1, n + 1, 2)))
    with pytest.raises(ValueError, match=r"^slopes: expected a tensor that requires no gradient"):
        pt.attention(q, k, v, PATTERN, slopes=draw(4))
    with pytest.raises(ValueError, match=r"^dropout_seed: expected an integer >= 0, got -1"):
        pt.attention(q, k, v, PATTERN, dropout=0.5, dropout_seed=-1)
    with pytest.raises(
        ValueError, match=r"^dropout_seed: expected one int64, got torch.int64 of shape \(2,\)"
    ):
        pt.attention(q, k, v, PATTERN, dropout=0.5, dropout_seed=torch.tensor([1, 2]))
    for name in ("scale", "softcap", "dropout"):
        with pytest.raises(TypeError, match=rf"^{name}: expected a number, got str"):
            pt.attention(q, k, v, PATTERN, **{name: "0.5"})


def test_nothing_without_grad_mode(qkv):
    with torch.no_grad():
        assert not pt.attention(*qkv, PATTERN).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(pt.attention(*qkv, PATTERN), pt.attention(*qkv, PATTERN))
