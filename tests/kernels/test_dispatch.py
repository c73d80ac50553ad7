"""Where a call runs, and what is refused there."""

import numpy as np
import pytest

import primeattn as pa
from primeattn.kernels import dispatch
from primeattn.kernels.call import Target
from primeattn.kernels.gpu import device

PATTERN = pa.Pattern("primes", window=1)


class OnDevice:
    def __init__(self, array):
        self.array, self.dtype, self.shape = array, array.dtype, array.shape
        self.__cuda_array_interface__ = dict(array.__array_interface__)


@pytest.fixture
def arrays(rng):
    q, k, v = rng.standard_normal((3, 1, 2, 9, 8)).astype(np.float32)
    return {"out": np.empty_like(q), "lse": np.empty(q.shape[:3], np.float32), "q": q, "k": k, "v": v}


@pytest.fixture
def gpu(monkeypatch):
    """A machine with a GPU, of which only the decision is tested."""
    monkeypatch.setattr(device, "problem", lambda: None)
    monkeypatch.setattr(device, "current_device", lambda: 0)


def test_numpy_arrays_go_to_the_cpu_unless_told_otherwise(arrays, gpu):
    for where, kernel, expected in (
        (None, None, False),
        ("cpu", "tiles", False),
        ("cpu", "scalar", False),
        ("cuda", None, True),
        ("cuda", "gather", True),
        ("cuda", "wheel", True),
        ("auto", "tiles", False),
        ("auto", "scalar", False),
        ("auto", "gather", True),
        ("auto", None, None),
    ):
        assert dispatch.locate(arrays, where, None, kernel)[0] == Target(expected, kernel=kernel)


def test_auto_takes_large_work_to_the_gpu(arrays, gpu, monkeypatch):
    """Work is multiply-adds; what it has to exceed is a constant, and more for every byte that is moved."""
    chosen = []
    from primeattn.kernels.cpu import launch as cpu_launch
    from primeattn.kernels.gpu import launch as gpu_launch

    monkeypatch.setattr(cpu_launch, "run", lambda _: chosen.append("cpu"))
    monkeypatch.setattr(gpu_launch, "run", lambda _: chosen.append("gpu"))
    full = pa.Pattern(None, window=99)
    work, moved = 2 * 9 * 9 * 8, 4 * 2 * 9 * 8 * 4  # all pairs count, the half beyond the diagonal too
    for rule in (dispatch.AUTO_RULE, (work, 0), (work + 1, 0), (0, work / moved), (1, work / moved)):
        monkeypatch.setattr(dispatch, "AUTO_RULE", rule)
        pa.sparse_index_kernel(*arrays.values(), full, device="auto")
    assert chosen == ["cpu", "gpu", "cpu", "gpu", "cpu"]
    monkeypatch.setattr(dispatch, "AUTO_RULE", (np.inf, 0))
    half = {
        name: array if name == "lse" else np.zeros(array.shape, np.float16) for name, array in arrays.items()
    }
    for where in ("auto", None):
        pa.sparse_index_kernel(*half.values(), full, device=where)
    assert chosen[5:] == ["cpu", "cpu"]


def test_auto_without_a_gpu_is_the_cpu(arrays):
    assert dispatch.locate(arrays, "auto", None, None)[0] == Target(False)
    with pytest.raises(
        ValueError, match="kernel: expected None or 'tiles' or 'scalar' on the CPU, got 'gather'"
    ):
        pa.sparse_index_kernel(*arrays.values(), PATTERN, device="auto", kernel="gather")


def test_refused_combinations(arrays, gpu):
    device = {name: OnDevice(array) for name, array in arrays.items()}
    for error, match, given, options in (
        (ValueError, "kernel: expected None or 'gather' or 'wheel' on the GPU, got 'tiles'", arrays,
         {"device": "cuda", "kernel": "tiles"}),
        (ValueError, "kernel: expected None or 'tiles' or 'scalar' on the CPU, got 'gather'", arrays,
         {"kernel": "gather"}),
        (ValueError, "kernel: expected None or 'tiles' or 'scalar' on the CPU, got 'wheel'", arrays,
         {"kernel": "wheel"}),
        (ValueError, "stream: expected None on the CPU", arrays, {"stream": 3}),
        (TypeError, "k: expected an array in the memory of the GPU like the others, got ndarray",
         device | {"k": arrays["k"]}, {}),
        (ValueError, "device: expected None, 'auto' or 'cuda' for arrays in the memory", device,
         {"device": "cpu"}),
        (TypeError, "stream: expected a CUDA stream or its handle, got str", device, {"stream": "mine"}),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            pa.sparse_index_kernel(*given.values(), PATTERN, **options)


def test_bad_device_arrays_get_the_errors_of_numpy_arrays(arrays, gpu):
    """The same calls with arrays of the CPU and of the GPU raise the same words."""
    q = arrays["q"]
    for changes in (
        {"k": q[..., :4]},
        {"v": q.astype(np.float64)},
        {"q": q[0]},
        {"out": q},
        {"lse": np.empty((1, 2, 9))},
        {"out": np.zeros((1, 2, 8, 9), np.float32).swapaxes(2, 3)},
        {"q": q.astype(np.int32)},
    ):
        words = []
        for kind in (lambda array: array, OnDevice):
            given = {name: kind(array) for name, array in (arrays | changes).items()}
            with pytest.raises((TypeError, ValueError)) as caught:
                pa.sparse_index_kernel(*given.values(), PATTERN)
            words.append(str(caught.value))
        assert words[0] == words[1]


def test_inputs_on_the_gpu_are_not_copied(arrays, gpu):
    """Those that kernels cannot read in place are refused there."""
    changed = arrays | {"k": np.zeros((1, 2, 9, 16), np.float32)[..., ::2]}
    given = {name: OnDevice(array) for name, array in changed.items()}
    with pytest.raises(ValueError, match="k: expected a contiguous last axis, got strides"):
        pa.sparse_index_kernel(*given.values(), PATTERN)


def test_bad_options_and_gradients_get_the_errors_of_numpy_arrays(arrays, gpu):
    """Of the backward too, and twice: what is wrong is not remembered as right."""
    q, lse = arrays["q"], arrays["lse"]
    frozen = q.copy()
    frozen.setflags(write=False)
    given = [
        *(np.empty_like(q) for _ in range(3)),
        q.copy(),
        *(arrays[name] for name in "qkv"),
        q.copy(),
        lse,
    ]
    names = ("dq", "dk", "dv", "dout", "q", "k", "v", "out", "lse")
    for changes, options in (
        ({"dk": given[0]}, {}),
        ({"dv": frozen}, {}),
        ({"dout": q[:, :, :3]}, {}),
        ({"lse": lse.astype(np.float64)}, {}),
        ({}, {"dlse": q}),
        ({}, {"scale": "large"}),
        ({}, {"scale": np.inf}),
        ({}, {"q_start": -(2**62)}),
        ({}, {"k_start": True}),
        ({}, {"cu_seqlens": [0, 5]}),
        ({}, {"cu_seqlens": [0, 9], "q_start": 1}),
        ({}, {"workspace": {}}),
        ({}, {"device": "gpu"}),
        ({}, {"kernel": "fast"}),
        ({}, {"pattern": [PATTERN]}),
        ({}, {"pattern": "primes"}),
    ):
        words = []
        for kind in (lambda array: array, OnDevice, OnDevice):
            arguments = dict(zip(names, given, strict=True)) | changes
            chosen = {name: kind(v) if name == "dlse" else v for name, v in options.items()}
            with pytest.raises((TypeError, ValueError)) as caught:
                pa.sparse_index_kernel_backward(
                    *map(kind, arguments.values()), **({"pattern": PATTERN} | chosen)
                )
            words.append((type(caught.value), str(caught.value)))
        assert words[0] == words[1] == words[2]


def test_bad_input_is_reported_before_a_missing_gpu(arrays):
    with pytest.raises(ValueError, match="v: expected the shape of k"):
        pa.sparse_index_kernel(*(arrays | {"v": arrays["v"][:, :1]}).values(), PATTERN, device="cuda")
    with pytest.raises(RuntimeError, match=r"^device: no GPU can be used here: .*; install primeattn"):
        pa.sparse_index_kernel(*arrays.values(), PATTERN, device="cuda")


def test_limits_of_the_gpu(arrays, gpu):
    wide = np.zeros((1, 1, 3, 513), np.float32)
    with pytest.raises(ValueError, match="q: expected head_dim up to 512 on the GPU, got 513"):
        pa.attention(wide, wide, wide, PATTERN, device="cuda")
    with pytest.raises(ValueError, match="q_start: expected positions up to 2147483646 on the GPU"):
        pa.sparse_index_kernel(*arrays.values(), pa.Pattern(None), device="cuda", q_start=2**31 - 9)


def test_arrays_on_another_gpu_are_refused(arrays, gpu, monkeypatch):
    monkeypatch.setattr(OnDevice, "__dlpack_device__", lambda array: (2, 1), raising=False)
    given = {name: OnDevice(array) for name, array in arrays.items()}
    with pytest.raises(
        ValueError, match="expected an array on GPU 0, which is current in Numba, got one on GPU 1"
    ):
        pa.sparse_index_kernel(*given.values(), PATTERN)
