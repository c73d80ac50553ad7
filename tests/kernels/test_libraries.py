"""Arrays of torch and JAX on the CPU: seen in place, and answered with arrays of the same library."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import primeattn as pa
from primeattn.kernels import host_arrays, reference

PATTERN = pa.Pattern("primes", window=3, global_tokens=2)
NAMES = ("float32", "float64", "float16", "bfloat16")


class Torch:
    def __init__(self):
        self.library = pytest.importorskip("torch")
        self.kind = self.library.Tensor

    def make(self, array, dtype):
        return self.library.from_numpy(array).to(getattr(self.library, dtype))

    def read(self, tensor):
        return tensor.double().numpy()


class Jax:
    def __init__(self):
        self.library = pytest.importorskip("jax")
        self.kind = self.library.Array

    def make(self, array, dtype):
        return self.library.numpy.asarray(array, dtype)

    def read(self, array):
        return np.asarray(array).astype(np.float64)


@pytest.fixture(params=[Torch, Jax])
def library(request):
    found = request.param()
    if request.param is Torch:
        yield found
    else:
        with found.library.enable_x64(True):
            yield found


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def numbers(rng):
    return rng.standard_normal((4, 1, 2, 60, 16))


@pytest.mark.parametrize("dtype", NAMES)
def test_results_belong_to_the_library_of_q(library, numbers, dtype):
    q, k, v, _ = (library.make(a, dtype) for a in numbers)
    out, lse = pa.attention(q, k, v, PATTERN)
    assert isinstance(out, library.kind) and isinstance(lse, library.kind)
    assert out.dtype == q.dtype and out.shape == q.shape
    assert str(lse.dtype).endswith("float64" if dtype == "float64" else "float32")
    expected = reference.forward(*map(library.read, (q, k, v)), PATTERN)
    bound = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 1e-6, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(library.read(out), expected[0], rtol=bound, atol=bound)
    np.testing.assert_allclose(library.read(lse), expected[1], atol=2e-6)
    merged, merged_lse = pa.merge([out, out], [lse, lse])
    assert isinstance(merged, library.kind) and isinstance(merged_lse, library.kind)
    assert merged.dtype == out.dtype and merged_lse.dtype == lse.dtype
    np.testing.assert_allclose(library.read(merged), library.read(out), rtol=bound)


@pytest.mark.parametrize("dtype", NAMES)
def test_inputs_are_seen_in_place(library, numbers, dtype):
    array = library.make(numbers[0], dtype)
    seen = host_arrays.view_of_host("q", array)
    again = host_arrays.view_of_host("q", array)
    pointer = array.data_ptr() if hasattr(array, "data_ptr") else array.unsafe_buffer_pointer()
    assert seen.ctypes.data == again.ctypes.data == pointer
    assert seen.shape == array.shape and seen.itemsize == array.dtype.itemsize


def test_what_is_seen_outlives_the_array(library, numbers):
    array = library.make(numbers[0], "float32")
    seen, expected = host_arrays.view_of_host("q", array), np.array(numbers[0], np.float32)
    del array
    filler = [library.make(np.full_like(numbers[0], 7), "float32") for _ in range(9)]
    np.testing.assert_array_equal(seen, expected)
    assert len(filler) == 9


@pytest.mark.parametrize("kernel", ["tiles", "scalar"])
@pytest.mark.parametrize("dtype", NAMES)
def test_tensors_are_written_in_place(torch, numbers, dtype, kernel):
    q, k, v, dout = (Torch().make(a, dtype).transpose(1, 2).contiguous().transpose(1, 2) for a in numbers)
    out, lse = (
        torch.empty_like(q),
        torch.empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32)),
    )
    assert pa.sparse_index_kernel(out, lse, q, k, v, PATTERN, kernel=kernel)[0] is out
    assert all(map(torch.equal, (out, lse), pa.attention(q, k, v, PATTERN, kernel=kernel)))
    gradients = [torch.full_like(a, torch.nan) for a in (q, k, v)]
    given = dout, q, k, v, out, lse, PATTERN
    got = pa.sparse_index_kernel_backward(*gradients, *given, kernel=kernel)
    assert all(a is b for a, b in zip(got, gradients, strict=True))
    bound = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5, "float64": 1e-12}[dtype]
    expected = reference.backward(*map(Torch().read, given[:-1]), PATTERN)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a.double().numpy(), b, rtol=bound, atol=bound)


def test_kinds_of_arrays_mix(library, numbers):
    q, k, v, _ = (np.float32(a) for a in numbers)
    expected = pa.attention(q, k, v, PATTERN)
    out, _ = pa.attention(q, library.make(k, "float32"), v, PATTERN)
    assert type(out) is np.ndarray and np.array_equal(out, expected[0])
    out, _ = pa.attention(library.make(q, "float32"), k, v, PATTERN)
    assert isinstance(out, library.kind) and np.array_equal(library.read(out), expected[0])
    with pytest.raises(TypeError, match="k: expected the dtype of q, float32, got float64"):
        pa.attention(q, library.make(numbers[1], "float64"), v, PATTERN)


def test_expanded_gradients_as_of_a_sum(torch, numbers):
    q, k, v, _ = (torch.from_numpy(a) for a in numbers)
    out, lse = pa.attention(q, k, v, PATTERN)
    summed = out.clone().requires_grad_()
    summed.sum().backward()
    results = []
    for dout in (torch.ones(()).double().expand_as(out), torch.ones_like(out)):
        results.append([torch.empty_like(a) for a in (q, k, v)])
        pa.sparse_index_kernel_backward(*results[-1], dout, q, k, v, out, lse, PATTERN)
    assert all(map(torch.equal, *results))


def test_tensors_that_require_a_gradient_are_refused(torch):
    q = torch.zeros(1, 1, 5, 8)
    for name in "qkv":
        given = {"q": q, "k": q, "v": q} | {name: torch.nn.Parameter(q)}
        with pytest.raises(TypeError, match=f"^{name}: expected a tensor that requires no gradient, .*"
                           r"primeattn\.torch\.attention"):  # fmt: skip
            pa.attention(**given, pattern=PATTERN)
    with pytest.raises(TypeError, match=r"^outs\[0\]: expected a tensor that requires no gradient"):
        pa.merge([torch.nn.Parameter(q)], [q[..., 0]])
    pa.attention(q, q, torch.nn.Parameter(q).detach(), PATTERN)


def test_what_has_no_memory_to_be_seen_is_refused(torch):
    q = torch.zeros(1, 1, 5, 8)
    for bad, words in (
        (q.to_sparse(), "expected memory to be seen in place, got Tensor"),
        (q.to(torch.int32), "expected floating point numbers"),
        (q.expand(2, 1, 5, 8)[0], r"expected 4 axes .* got shape \(1, 5, 8\)"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"k: {words}"):
            pa.attention(q, bad, q, PATTERN)


def test_arrays_of_jax_are_no_outputs_and_its_traces_no_arrays():
    jax = pytest.importorskip("jax")
    q = jax.numpy.ones((1, 1, 5, 8))
    with pytest.raises(ValueError, match="out: expected a writeable array, got a read-only one"):
        pa.sparse_index_kernel(q + 1, None, q, q, q, PATTERN)
    with pytest.raises(TypeError, match=r"q: expected a NumPy array, got .*Tracer"):
        jax.jit(lambda q: pa.attention(q, q, q, PATTERN))(q)


def test_arrays_of_ml_dtypes(numbers):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    q, k, v, _ = numbers.astype(bfloat16)
    out, lse = pa.attention(q, k, v, PATTERN)
    assert out.dtype == bfloat16 and lse.dtype == np.float32
    expected, _ = reference.forward(*(a.astype(float) for a in (q, k, v)), PATTERN)
    np.testing.assert_allclose(out.astype(float), expected, rtol=8e-3, atol=1e-4)
    assert pa.merge([out], [lse])[0].dtype == bfloat16


def test_anything_with_an_array_interface(numbers):
    q, k, v, _ = numbers
    expected = pa.attention(q, k, v, PATTERN)
    wrapped = SimpleNamespace(__array_interface__=k.__array_interface__)
    assert all(map(np.array_equal, pa.attention(q, wrapped, v, PATTERN), expected))


SHAPES = [(1, 2, 2, 300, 64, "primes"), (2, 4, 2, 200, 32, "squares"), (1, 1, 1, 513, 80, "primes")]


@pytest.mark.parametrize(("batch", "heads", "kv_heads", "n", "d", "sequence"), SHAPES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_as_exact_as_torch(torch, rng, dtype, batch, heads, kv_heads, n, d, sequence):
    """Mean error against float64, with the same mask: at most 1.1 times that of torch's attention."""
    pattern, make = pa.Pattern(sequence, window=3, global_tokens=2), Torch().make
    q, dout = (make(rng.standard_normal((batch, heads, n, d)), dtype) for _ in range(2))
    k, v = (make(rng.standard_normal((batch, kv_heads, n, d)), dtype) for _ in range(2))
    mask = torch.from_numpy(reference.mask(pattern, n, n))

    def attend(q, k, v, dout):
        q, k, v = (a.clone().requires_grad_() for a in (q, k, v))
        wide = (a.repeat_interleave(heads // kv_heads, 1) for a in (k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, *wide, attn_mask=mask)
        return out.detach(), *torch.autograd.grad(out, (q, k, v), dout)

    expected = attend(*(a.double() for a in (q, k, v, dout)))
    out, lse = pa.attention(q, k, v, pattern)
    gradients = [torch.empty_like(a) for a in (q, k, v)]
    got = out, *pa.sparse_index_kernel_backward(*gradients, dout, q, k, v, out, lse, pattern)
    for name, a, b, c in zip(("out", "dq", "dk", "dv"), got, attend(q, k, v, dout), expected, strict=True):
        error, of_torch = ((x.double() - c).abs() for x in (a, b))
        assert error.mean() <= 1.1 * of_torch.mean(), (name, error.mean(), of_torch.mean())
        assert error.max() <= 1.1 * of_torch.max(), (name, error.max(), of_torch.max())


@pytest.mark.slow
def test_libraries_are_looked_for_and_not_imported():
    code = (
        "import sys, numpy as np, primeattn as pa\nq = np.ones((1, 1, 5, 8), np.float16)\n"
        "pa.attention(q, q, q, pa.Pattern('primes'), kernel='scalar')\n"
        "print([name for name in ('torch', 'jax', 'ml_dtypes') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_sign_that_torch_has_yet_to_change_is_seen(rng):
    """The memory of such tensors holds the numbers with the other sign."""
    torch = pytest.importorskip("torch")
    parts = torch.from_numpy(rng.standard_normal((2, 1, 2, 30, 8)))
    turned = torch.complex(*parts).conj().imag
    assert turned.is_neg()
    pattern, plain = pa.Pattern("primes", window=3), turned.clone()
    out, lse = pa.attention(plain, plain, plain, pattern)
    assert all(map(torch.equal, pa.attention(turned, turned, turned, pattern), (out, lse)))
    merged = pa.merge([turned, plain], [lse, lse])
    assert all(map(torch.equal, merged, pa.merge([plain, plain], [lse, lse])))
    with pytest.raises(ValueError, match="out: expected a writeable array, got a read-only one"):
        pa.sparse_index_kernel(torch._neg_view(out), lse, plain, plain, plain, pattern)
