"""Operands of PTX instructions, as functions that a machine's lanes read and write by.

They are made once for each instruction. Registers hold bits; what type these have, each instruction says.
"""

import re

import numpy as np
from ptx_memory import Fault

__all__ = ["address_of", "dtype", "reader", "vector", "writer"]

NUMBERS = {"s": "i", "u": "u", "b": "u", "f": "f"}


def dtype(kind):
    """NumPy's name of a PTX type: s64 is i8."""
    return "?" if kind == "pred" else f"{NUMBERS[kind[0]]}{int(kind[1:]) // 8}"


def reader(machine, operand, kind):
    """Function that returns an operand as numbers of a PTX type: of each lane, or one for all."""
    wanted = np.dtype(dtype(kind))
    if operand in machine.special:
        bits = machine.special[operand]
        return lambda: bits[machine.at].astype(wanted)
    if operand in machine.program.registers:
        bits = machine.register(operand)
        if kind == "pred":
            return lambda: bits[machine.at].astype(bool)
        if bits.itemsize == wanted.itemsize:
            return lambda: bits[machine.at].view(wanted)
        return lambda: bits[machine.at].astype(f"u{wanted.itemsize}").view(wanted)
    if operand in machine.program.shared:
        value = np.array(machine.program.shared[operand], wanted)
    elif re.fullmatch(r"0[fFdD][0-9A-Fa-f]+", operand):
        bits = "u4" if operand[1] in "fF" else "u8"
        value = np.array(int(operand[2:], 16), bits).view(wanted)
    else:
        value = np.array(int(operand, 0) & (1 << 8 * wanted.itemsize) - 1, f"u{wanted.itemsize}").view(wanted)
    return lambda: value


def writer(machine, operand):
    """Function that writes numbers to a register; narrower integers are extended by their sign."""
    bits = machine.register(operand)

    def write(values):
        values = np.asarray(values)
        if values.itemsize == bits.itemsize:
            bits[machine.at] = values.view(bits.dtype)
        elif values.dtype.kind in "iu" and values.itemsize < bits.itemsize:
            bits[machine.at] = values.astype(f"{values.dtype.kind}{bits.itemsize}").view(bits.dtype)
        else:
            raise Fault(f"{values.dtype} does not fit register {operand}")

    return write


def address_of(machine, operand):
    """Function that returns addresses of the lanes, of ``[register + offset]``."""
    name, _, offset = operand.strip("[]").partition("+")
    base, offset = reader(machine, name, "s64" if _is_wide(machine, name) else "u32"), int(offset or 0)
    return lambda: np.broadcast_to(base().astype(np.int64) + offset, machine.lanes.shape)


def _is_wide(machine, name):
    return machine.program.registers.get(name, 8) == 8


def vector(operand):
    return re.split(r",\s*", operand.strip("{}"))
