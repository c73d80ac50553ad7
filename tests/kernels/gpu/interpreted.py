"""Runs the public functions on a GPU that is not there, by the PTX of their kernels.

``with interpreted(capability) as machine:`` compiles each kernel as a launch on such a device does and
interprets what comes out (:mod:`ptx_machine`). Nothing of the kernels is replaced: memory of the device is
NumPy memory, and all else is what runs on a GPU.
"""

from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import ptx_machine
import ptx_text
import pytest
from emulator import Host, forget
from runtime_path import ptx_of

from primeattn.kernels.gpu import device, launch, memory
from primeattn.kernels.gpu.gather import plan
from primeattn.wheel import cost

__all__ = ["interpreted"]

program_of = lru_cache(None)(ptx_text.read)


class Interpreter(Host):
    """Twin of ``numba.cuda`` on the host; launches interpret, and note the opcodes of each kernel."""

    def __init__(self, capability, seed, change):
        super().__init__(seed)
        self.capability, self.change, self.executed = capability, change, {}

    def configured(self, kernel, grid, threads, stream):
        def launch(*arguments):
            ptx = ptx_of(kernel, arguments, self.capability)
            program = program_of(self.change(kernel.py_func.__name__, ptx))
            self.launches.append((kernel.py_func.__name__, *grid, threads, stream))
            bits = [word for argument in arguments for word in _bits(argument)]
            assert len(bits) == len(program.parameters)
            opcodes = ptx_machine.run(program, grid, threads, bits, self.memory, self.random)
            self.executed.setdefault(kernel.py_func.__name__, set()).update(opcodes)

        return launch


def _bits(argument):
    """Bits of the parameters that Numba makes of an argument: an array is seven."""
    if isinstance(argument, np.ndarray):
        address, size = argument.ctypes.data, argument.itemsize
        return [0, 0, argument.size, size, address, argument.size, size]
    if isinstance(argument, np.floating):
        return [int(argument.view(f"u{argument.itemsize}"))]
    return [int(argument) & (1 << 64) - 1]


@contextmanager
def interpreted(capability, *, blocks=plan.BLOCKS, wheel=1, step=0.01, seed=0, change=lambda name, ptx: ptx):
    """Interpret kernels for one compute capability.

    Of few rows the gather kernels make ``blocks`` blocks. A tile is said to cost only ``step`` of what it
    costs, so that short inputs are regrouped by ``wheel``. ``change(name, ptx)`` may alter the code of a
    kernel.
    """
    machine = Interpreter(capability, seed, change)
    with pytest.MonkeyPatch.context() as patch:
        for module in (launch, memory):
            patch.setattr(module, "cuda", machine)
        patch.setattr(device, "configured", machine.configured)
        patch.setattr(plan, "BLOCKS", blocks)
        patch.setattr(cost, "WHEELS", (wheel,))
        cheap = {kind: costs._replace(step=step * costs.step) for kind, costs in cost.COSTS.items()}
        patch.setattr(cost, "COSTS", cheap)
        patch.setattr(device, "problem", lambda: None)
        patch.setattr(device, "current_device", lambda: 0)
        forget(kernels=False)
        try:
            yield machine
        finally:
            forget(kernels=False)
