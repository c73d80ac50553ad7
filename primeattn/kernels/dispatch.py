"""Where a call runs: on the CPU or the GPU, by its arrays and options."""

from __future__ import annotations

import numpy as np

from primeattn.kernels.arguments import check_choice
from primeattn.kernels.call import KERNELS, Target, reach
from primeattn.kernels.cpu import launch as cpu_launch
from primeattn.kernels.device_arrays import (
    carried_streams,
    device_interface,
    device_number,
    stream_handle,
    view,
)
from primeattn.kernels.host_arrays import view_of_host

__all__ = ["AUTO_RULE", "is_large", "locate", "run", "work"]

# Multiply-adds that the CPU could do while a call with NumPy arrays gets to the GPU and back: per call, and
# per byte of q, k, v and out. "auto" sends more work than that to the GPU. Measured with 16 cores of a Xeon
# beside an H200 by `python -m primeattn.bench gpu-check auto`.
AUTO_RULE = 43_000_000, 5


def locate(arrays, device, stream, kernel):
    """Return the target of a call, and its arrays by name as NumPy views with the right shape and address."""
    check_choice("device", device, ("cpu", "auto", "cuda"))
    check_choice("kernel", kernel, tuple(KERNELS))
    elsewhere = [array for array in arrays.values() if not isinstance(array, np.ndarray)]
    if any(device_interface(array) is not None for array in elsewhere):
        return _among_device_arrays(arrays, device, stream, kernel)
    gpu = device == "cuda"
    if device == "auto" and (kernel is None or KERNELS[kernel] == "cuda") and _device().available():
        gpu = None if stream is None and kernel is None else True
    if gpu is False and stream is not None:
        raise ValueError("stream: expected None on the CPU, streams belong to GPU calls")
    if gpu is not None:
        _check_kernel(kernel, gpu)
    arrays = {name: view_of_host(name, array) for name, array in arrays.items()}
    return Target(gpu, stream=stream_handle(stream), kernel=kernel), arrays


def run(call):
    """Run a checked call; on the GPU, return a launch that can be repeated."""
    gpu = call.target.gpu
    if gpu is None:
        gpu = is_large(call)
    if not gpu:
        return cpu_launch.run(call)
    _device().require()
    from primeattn.kernels.gpu import launch as gpu_launch

    return gpu_launch.run(call)


def is_large(call) -> bool:
    """Whether "auto" sends the call to the GPU."""
    # Shapes and patterns alone decide, not the number of threads, so that results repeat.
    per_call, per_byte = AUTO_RULE
    return work(call) >= per_call + per_byte * 2 * (call.arrays["q"].nbytes + call.arrays["k"].nbytes)


def work(call) -> float:
    """Upper bound of the multiply-adds of one product over all pairs."""
    sequences = call.sequences
    low, high = reach(sequences)
    counts = [pattern.offsets_between(low, high).size + pattern.global_tokens for pattern in call.patterns]
    keys = np.minimum.outer(sequences["n_k"], counts).sum(axis=1)
    return float(sequences["n_q"] @ keys) * call.head_dim


def _among_device_arrays(arrays, device, stream, kernel):
    interfaces = {name: device_interface(array) for name, array in arrays.items()}
    for name, interface in interfaces.items():
        if interface is None:
            raise TypeError(
                f"{name}: expected an array in the memory of the GPU like the others, "
                f"got {type(arrays[name]).__name__}"
            )
    if device == "cpu":
        raise ValueError(
            "device: expected None, 'auto' or 'cuda' for arrays in the memory of the GPU, got 'cpu'"
        )
    _check_kernel(kernel, True)
    _check_device(arrays)
    handle = stream_handle(stream)
    if handle is None:
        carried = carried_streams(arrays, interfaces)
        if len(carried) > 1:
            raise ValueError(f"stream: expected one to run on, as the arrays carry {len(carried)}, got None")
        handle = next(iter(carried), None)
    return Target(True, True, handle, kernel), {
        name: view(name, array, interfaces[name], handle) for name, array in arrays.items()
    }


def _check_device(arrays):
    current = _device().current_device()
    for name, array in arrays.items():
        number = device_number(array)
        if number not in (None, current):
            raise ValueError(
                f"{name}: expected an array on GPU {current}, which is current in Numba, got one on GPU "
                f"{number}; numba.cuda.select_device({number}) makes that one current"
            )


def _check_kernel(kernel, gpu):
    if kernel is not None and (KERNELS[kernel] == "cuda") != gpu:
        where = "GPU" if gpu else "CPU"
        names = " or ".join(repr(name) for name, device in KERNELS.items() if (device == "cuda") == gpu)
        raise ValueError(f"kernel: expected None or {names} on the {where}, got {kernel!r}")


def _device():
    from primeattn.kernels.gpu import device  # late: importing CUDA takes time

    return device
