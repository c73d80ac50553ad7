"""Arrays of a GPU as seen by the checks: nothing here reads their memory, so NumPy memory stands for it."""

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from primeattn.kernels import device_arrays
from primeattn.kernels.call import BFLOAT16
from primeattn.kernels.device_arrays import device_interface, stream_handle


class Interface:
    def __init__(self, array, dtype=None, **changes):
        self.__cuda_array_interface__ = dict(array.__array_interface__, **changes)
        self.dtype = dtype or array.dtype
        self.array = array


class Capsule:
    """An array that speaks DLPack only; ``code`` and ``bits`` of its type may be false."""

    def __init__(self, array, code=2, bits=None, device=2):
        self.array, self.device = array, device
        self.shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self.strides = (ctypes.c_int64 * array.ndim)(*(s // array.itemsize for s in array.strides))
        self.tensor = device_arrays._DLTensor(
            array.ctypes.data - 8, 2, 0, array.ndim, code, bits or 8 * array.itemsize, 1,
            ctypes.cast(self.shape, ctypes.POINTER(ctypes.c_int64)),
            ctypes.cast(self.strides, ctypes.POINTER(ctypes.c_int64)), 8,
        )  # fmt: skip

    def __dlpack_device__(self):
        return self.device, 0

    def __dlpack__(self, stream=None):
        self.stream = stream
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.tensor), b"dltensor", None)


def view(name, array, stream):
    return device_arrays.view(name, array, device_interface(array), stream)


@pytest.fixture
def array():
    return np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5).transpose(0, 2, 1, 3)[:, ::2]


@pytest.mark.parametrize("kind", [Interface, Capsule])
def test_view_has_the_address_and_layout_of_the_array(kind, array):
    seen = view("q", kind(array), None)
    assert seen.ctypes.data == array.ctypes.data
    assert (seen.shape, seen.strides, seen.dtype) == (array.shape, array.strides, array.dtype)


def test_dlpack_is_told_the_stream(array):
    given = Capsule(array)
    view("q", given, 77)
    assert given.stream == 77
    view("q", given, None)
    assert given.stream == 1  # the protocol's number of the default stream


def test_bfloat16_is_known_by_name_or_by_type_code():
    bits = np.zeros((3, 4), np.uint16)
    assert view("q", Interface(bits, dtype="torch.bfloat16", typestr="<f2"), None).dtype == BFLOAT16
    assert view("q", Interface(bits, dtype=np.dtype("V2"), typestr="|V2"), None).dtype != BFLOAT16
    assert view("q", Capsule(bits, code=4), None).dtype == BFLOAT16
    with pytest.raises(TypeError, match="q: expected floating point numbers, got DLPack type code 0"):
        view("q", Capsule(bits, code=0), None)


def test_read_only_and_masked_arrays_are_seen_as_such(array):
    address = array.ctypes.data
    assert not view("q", Interface(array, data=(address, True)), None).flags.writeable
    with pytest.raises(TypeError, match="q: expected an array without a mask, got one with"):
        view("q", Interface(array, mask=array), None)


def test_what_lies_on_a_device(array):
    assert device_interface(Interface(array))["data"][0] == array.ctypes.data
    assert device_interface(Capsule(array)) == {}
    for other in (array, Capsule(array, device=1), None, [1, 2], 3.0):
        assert device_interface(other) is None


def test_stream_handles():
    class Torch:
        cuda_stream = 11

    class CuPy:
        ptr = 12

    class Protocol:
        def __cuda_stream__(self):
            return 0, 13

    assert [stream_handle(s) for s in (None, 5, np.int64(6), Torch(), CuPy(), Protocol())] == [
        None, 5, 6, 11, 12, 13,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="stream: expected a handle >= 0, got -1"):
        stream_handle(-1)
    for wrong in (True, "default", 1.5):
        with pytest.raises(TypeError, match="stream: expected a CUDA stream or its handle, got "):
            stream_handle(wrong)


def test_streams_are_those_that_arrays_carry_and_the_current_one_of_torch(array, monkeypatch):
    class Tensor(Interface):
        device = "cuda:0"

    Tensor.__module__, asked, current = "torch", [], SimpleNamespace(cuda_stream=0)

    def current_stream(device):
        asked.append(device)
        return current

    torch = SimpleNamespace(cuda=SimpleNamespace(current_stream=current_stream))
    monkeypatch.setitem(sys.modules, "torch", torch)

    def carried(**arrays):
        interfaces = {name: a.__cuda_array_interface__ for name, a in arrays.items()}
        return device_arrays.carried_streams(arrays, interfaces)

    plain, own = Interface(array), Interface(array, stream=9)
    assert carried(q=plain, k=plain) == set() and carried(q=plain, k=own) == {9} and asked == []
    assert carried(q=Tensor(array), k=Tensor(array)) == {device_arrays.LEGACY_STREAM}
    assert asked == ["cuda:0"]  # once, however many tensors
    current.cuda_stream = 7
    assert carried(q=Tensor(array), k=own) == {7, 9}


def test_the_number_of_a_device_is_told_by_dlpack_or_by_numba(array):
    numba = SimpleNamespace(gpu_data=SimpleNamespace(context=SimpleNamespace(device=SimpleNamespace(id=3))))
    dlpack = SimpleNamespace(__dlpack_device__=lambda: (2, 1))
    assert [device_arrays.device_number(a) for a in (numba, dlpack, Interface(array))] == [3, 1, None]
