"""The module against the layer whose projections it has."""

import copy

import numpy as np
import pytest

import primeattn as pa

torch = pytest.importorskip("torch")
pt = pytest.importorskip("primeattn.torch")
module_file = pytest.importorskip("primeattn.torch.module")

PATTERN = pa.Pattern("primes", window=2, global_tokens=2)
ALL = {
    "kv_heads": 2, "head_dim": 6, "scale": 0.3, "rotary": 100.0, "rotary_dims": 4, "qk_norm": True,
    "offset_bias": 8, "softcap": 2.0, "sinks": True, "bias": True,
}  # fmt: skip
CASES = [{}, {"alibi": True, "rotary": 10000.0}, {"offset_bias": 0}, ALL]


def module(dtype=torch.float64, pattern=PATTERN, **options):
    torch.manual_seed(0)
    made = pt.SparseAttention(pattern, 16, heads=4, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def data(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("options", CASES, ids=["plain", "alibi", "one bias", "all"])
def test_outputs_and_gradients_are_those_of_the_layer(options):
    ours = module(**options)
    ps, x, dy = pt.from_torch(ours), data(2, 19, 16).requires_grad_(), data(2, 19, 16)
    y, _, pullback = ours.layer.pullback(x.detach().numpy(), ps, ours.layer.states(None))
    got = ours(x)
    np.testing.assert_allclose(got.detach(), y, rtol=1e-10, atol=1e-12)
    got.backward(dy)
    dx, dps = pullback(dy.numpy())
    np.testing.assert_allclose(x.grad, dx, rtol=1e-9, atol=1e-11)
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    expected = pt.to_state_dict(dps, pt.map_of(ours), ours.state_dict())
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-10)


def test_parameters_have_the_names_of_the_layer():
    names = {name.replace(".", "/") for name in module(**ALL).state_dict()}
    renamed = {name.replace("norm/weight", "norm/scale") for name in names}
    assert renamed == set(pa.tree.flatten(pa.setup(np.random.default_rng(0), module(**ALL).layer)[0]))


def test_weights_go_there_and_back_bit_for_bit():
    ours = module(**ALL)
    ps = pt.from_torch(ours)
    ours.layer.check_parameters(ps)
    other = pt.to_torch(ps, pt.SparseAttention(PATTERN, 16, 4, dtype=torch.float64, **ALL))
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    x = data(11, 16)
    assert torch.equal(ours(x), other(x))


def test_packed_sequences_start_anew():
    ours = module(rotary=100.0, alibi=True)
    x, bounds = data(1, 20, 16), torch.tensor([0, 7, 7, 20])
    apart = torch.cat([ours(x[:, :7]), ours(x[:, 7:])], dim=1)
    torch.testing.assert_close(ours(x, cu_seqlens=bounds), apart)
    turns = (module_file._turns(20, bounds, 100.0, 4, x), module_file._turns(13, None, 100.0, 4, x))
    for packed, alone in zip(*turns, strict=True):
        torch.testing.assert_close(packed[7:], alone)


def test_dropout_only_in_training_and_by_the_generator_of_torch():
    ours, plain, x = module(dropout=0.4), module(), data(2, 19, 16)
    torch.testing.assert_close(ours.eval()(x), plain(x))
    ours.train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(ours(x))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    torch.manual_seed(3)
    seed = torch.randint(2**63 - 1, ())
    torch.manual_seed(3)
    dropped = copy.deepcopy(ours)(x)
    q, k, v = ours.Wi(x).unflatten(-1, (12, 4)).transpose(1, 2).split(4, dim=1)
    out = pt.attention(q, k, v, PATTERN, dropout=0.4, dropout_seed=int(seed))
    torch.testing.assert_close(dropped, ours.Wo(out.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("options", [ALL, {"dropout": 0.3, "pattern": [PATTERN, pa.Pattern("squares")] * 2}])
def test_compiled_and_checkpointed(options):
    from torch.utils.checkpoint import checkpoint

    ours, x = module(**options), data(2, 19, 16)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    gradients = []
    for run in (ours, compiled, lambda x: checkpoint(ours, x, use_reentrant=False)):
        torch.manual_seed(0)
        gradients.append(torch.autograd.grad(run(x).square().sum(), list(ours.parameters())))
    torch.testing.assert_close(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[0], gradients[2])


def test_a_compiled_module_takes_other_lengths():
    ours = module(rotary=100.0, offset_bias=5)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for length in (9, 17, 30):
        torch.testing.assert_close(compiled(data(1, length, 16)), ours(data(1, length, 16)))


def test_exported():
    ours = module(rotary=100.0, qk_norm=True, sinks=True).eval()
    shapes = {"x": {1: torch.export.Dim("length", min=2, max=500)}}
    program = torch.export.export(ours, (data(2, 9, 16),), dynamic_shapes=shapes)
    torch.testing.assert_close(program.module()(data(2, 40, 16)), ours(data(2, 40, 16)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "all"])
def test_halves_and_autocast(dtype, options):
    ours, x = module(torch.float32, **options), data(1, 19, 16, dtype=torch.float32)
    expected = ours(x)
    with torch.autocast("cpu", dtype=dtype):
        cast = ours(x)
    assert cast.dtype == dtype
    torch.testing.assert_close(cast.float(), expected, atol=0.05, rtol=0.05)
    halves = ours.to(dtype)(x.to(dtype))
    torch.testing.assert_close(halves.float(), expected, atol=0.05, rtol=0.05)


def test_it_prints_and_refuses():
    assert "SparseIndexAttention(16, Pattern(primes, window=2, global_tokens=2), heads=4" in repr(module())
    with pytest.raises(ValueError, match="heads must divide dims"):
        pt.SparseAttention(PATTERN, 16, heads=3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'init'"):
        pt.SparseAttention(PATTERN, 16, heads=4, init=None)


def test_shapes_alone_on_the_meta_device():
    pattern = pa.Pattern("primes", window=3)
    q = torch.empty((1, 2, 5, 8), device="meta")
    assert pa.torch.attention(q, q, q, pattern).shape == q.shape
    module = pa.torch.SparseAttention(pattern, 16, heads=2, device="meta")
    assert module(torch.empty((2, 5, 16), device="meta")).shape == (2, 5, 16)
    with pytest.raises(ValueError, match=r"x: expected shape \(seq, 16\) or .*, got \(2, 2, 5, 16\)"):
        module(torch.empty((2, 2, 5, 16), device="meta"))
