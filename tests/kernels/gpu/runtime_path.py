"""Compiles kernels as a launch does, for a GPU that is not there.

numba-cuda makes LTO-IR of a kernel, and nvJitLink makes of that the machine code that runs. Asked for PTX, it
gives what it would have assembled. Needs the extra ``gpu-test``; modules that import this are skipped without
it.
"""

import struct
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import NamedTuple

import pytest

pytest.importorskip("numba_cuda")
import numpy as np
from numba import types
from numba.cuda import codegen, dispatcher

from primeattn.kernels.gpu.occupancy import SYSTEM_SHARED

__all__ = ["CAPABILITIES", "MachineCode", "machine_code_of", "modules_of", "ptx_of"]

CAPABILITIES = {(8, 0): "sm_80", (9, 0): "sm_90a"}  # and what they are compiled for
MIN_STACK, FRAME, REGISTERS = 0x12, 0x11, 0x2F  # attributes of a cubin's .nv.info, of 8 bytes each


class MachineCode(NamedTuple):
    """Machine code of a kernel."""

    cubin: bytes
    registers: int  # of a thread
    stack: int  # bytes of a thread, spilled registers among them
    shared: int  # bytes of a block


def ptx_of(kernel, arguments, capability) -> str:
    """What a kernel is compiled to for the types of ``arguments``, by the first launch on such a device."""
    return _ptx(kernel, tuple(map(_type, arguments)), capability)


def machine_code_of(kernel, arguments, capability) -> MachineCode:
    """What this PTX is assembled to."""
    return _machine_code(kernel, tuple(map(_type, arguments)), capability)


def modules_of(kernel, arguments, capability) -> list[str]:
    """The LLVM modules that the compiler was given."""
    return _library(kernel, tuple(map(_type, arguments)), capability).llvm_strs


def _type(argument):
    if isinstance(argument, np.ndarray):
        return types.Array(getattr(types, argument.dtype.name), 1, "C")
    return getattr(types, argument.dtype.name) if isinstance(argument, np.floating) else types.int64


@contextmanager
def _device(capability):
    """Numba finds a device of this capability."""
    device = SimpleNamespace(compute_capability=capability)
    context = SimpleNamespace(device=device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatcher, "get_current_device", lambda: device)
        patch.setattr(codegen, "devices", SimpleNamespace(get_context=lambda: context))
        yield


@lru_cache(None)
def _library(kernel, signature, capability):
    assert kernel.targetoptions["lto"], "the run-time path links with nvJitLink"
    with _device(capability):
        return dispatcher._Kernel(kernel.py_func, signature, **kernel.targetoptions)._codelibrary


@lru_cache(None)
def _ptx(kernel, signature, capability) -> str:
    with _device(capability):
        ptx = _library(kernel, signature, capability).get_lto_ptx().rstrip("\0")
    assert f".target {CAPABILITIES[capability]}\n" in ptx
    return ptx


@lru_cache(None)
def _machine_code(kernel, signature, capability) -> MachineCode:
    with _device(capability):
        cubin = _library(kernel, signature, capability).get_cubin()
    cubin = bytes(getattr(cubin, "code", cubin))
    sections = dict(_sections(cubin))
    shared = sum(len(content) for name, content in sections.items() if name.startswith(".nv.shared."))
    shared -= SYSTEM_SHARED if capability >= (9, 0) else 0  # which counts as the block's own there
    numbers = [*_attributes(sections[".nv.info"])]
    (registers,) = [number for kind, number in numbers if kind == REGISTERS]
    stack = max(number for kind, number in numbers if kind in (FRAME, MIN_STACK))
    return MachineCode(cubin, registers, stack, shared)


def _sections(cubin):
    """Names and contents of the sections of an ELF file; those without bytes in it are of their size."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<3H", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    for name, kind, _, _, offset, length in headers:
        at = headers[names][4] + name
        content = bytes(length) if kind == 8 else cubin[offset : offset + length]
        yield cubin[at : cubin.index(b"\0", at)].decode(), content


def _attributes(info):
    """Attributes of .nv.info that have a number for each function: one is the kernel, others divide."""
    at = 0
    while at < len(info):
        form, kind, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == 4:
            if size == 8:
                yield kind, struct.unpack_from("<I", info, at + 4)[0]
            at += size
