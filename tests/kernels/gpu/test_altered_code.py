"""Errors in the code of a kernel are noticed: by the interpreter, as a fault, or by a wrong result.

Each change is made in the PTX that really runs. What is left out or exchanged here could have been forgotten
in the source, or by the compiler.
"""

import re

import pytest
from interpreted import interpreted
from ptx_memory import Fault
from test_machine_code import DENSE, NARROW, draw, gradients, is_right, oracle

import primeattn as pa
from primeattn.bench.gpu_device import numbers, stored

GATHER_KERNELS = "forward", "backward_queries", "backward_keys"
WHEEL_KERNELS = {
    "wheel_forward": 64,
    "wheel_queries": 64,
    "wheel_keys": 64,
    "wide_queries": 128,
    "wide_keys": 128,
}
BARRIER, WAIT = r"\n\tbar\.sync[^\n]*", r"\n\tcp\.async\.wait_all[^\n]*"


def noticed(rng, kernel, change):
    """Whether a run of ``kernel`` by code that ``change`` has altered is noticed; it is right without."""
    if kernel in GATHER_KERNELS:
        arrays, pattern, options = draw(rng, "float32", 1, 1, 340, 340, 16), DENSE, {"kernel": "gather"}
        storage = "float32"
    else:
        head_dim = WHEEL_KERNELS[kernel]
        arrays, pattern, options = draw(rng, "float16", 2, 1, 300, 300, head_dim), NARROW, {"kernel": "wheel"}
        storage = "float16"
    expected = oracle(*arrays, pattern)

    def altered(name, ptx):
        return change(ptx) if name == kernel else ptx

    with interpreted((9, 0), wheel=2, blocks=64, change=altered):
        try:
            if kernel.endswith("forward"):
                got = [*map(numbers, pa.attention(*arrays[:3], pattern, device="cuda", **options))]
                return not is_right(got, expected[:2], storage)
            out, lse = stored(expected[0], storage), expected[1].astype("f4")
            got = gradients(*arrays, out, lse, pattern, **options)
            return not is_right([out, lse, *got], expected, storage)
        except (Fault, AssertionError):
            return True


def each(rng, kernel, pattern, alter=lambda found: ""):
    """Changes of the code of a kernel, each of one place that matches ``pattern``; it is right without."""
    seen = []

    def look(ptx):
        seen.append(ptx)
        return ptx

    def change_at(m):
        return lambda ptx: ptx[: m.start()] + alter(m) + ptx[m.end() :]

    assert not noticed(rng, kernel, look)
    return [change_at(m) for m in re.finditer(pattern, seen[0])]


# Barriers that another one makes needless in this kernel: wide_keys waits once for each single query, and
# each key has one.
NEEDLESS = {("wide_keys", 1)}


@pytest.mark.parametrize("kernel", [*GATHER_KERNELS, *WHEEL_KERNELS])
def test_a_barrier_that_is_missing_is_noticed(kernel, rng):
    changes = each(rng, kernel, BARRIER)
    missed = {(kernel, i) for i, change in enumerate(changes) if not noticed(rng, kernel, change)}
    assert changes and missed == {part for part in NEEDLESS if part[0] == kernel}


@pytest.mark.parametrize("kernel", WHEEL_KERNELS)
def test_a_copy_that_is_not_waited_for_is_noticed(kernel, rng):
    (change,) = each(rng, kernel, WAIT)
    assert noticed(rng, kernel, change)


@pytest.mark.parametrize("kernel", WHEEL_KERNELS)
def test_operands_of_a_product_in_the_wrong_order_are_noticed(kernel, rng):
    """The first two words of A change places."""

    def swapped(found):
        return re.sub(r"(\}, \{)(\S+),(%\w+),", r"\1\3,\2,", found[0], count=1)

    changes = each(rng, kernel, r"\n\tmma\.sync[^\n]*", swapped)
    assert len(changes) >= 32
    assert noticed(rng, kernel, changes[0]) and noticed(rng, kernel, changes[-1])


@pytest.mark.parametrize("kernel", [*GATHER_KERNELS, *WHEEL_KERNELS])
def test_a_shuffle_with_a_wrong_mask_is_noticed(kernel, rng):
    def half(found):
        return found[1] + "65535;"

    changes = each(rng, kernel, r"(\n\tshfl\.sync[^\n]*, )%\w+;", half)
    assert noticed(rng, kernel, changes[0])
