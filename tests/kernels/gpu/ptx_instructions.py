"""What each PTX instruction does (PTX ISA 9.0), for all lanes of a group at once.

``operation(machine, instruction)`` returns a function that executes it for the lanes that the machine has
entered.
"""

import re

import numpy as np
import ptx_warp as warp
from ptx_operands import address_of, dtype, reader, vector, writer
from ptx_text import WIDTHS

__all__ = ["BARRIER", "COLLECTIVE", "operation"]

BARRIER = "bar.sync"
COLLECTIVE = ("shfl.sync", "mma.sync", "ldmatrix.sync")  # executed by all lanes of a warp together
GENERIC = 1 << 60  # generic address of the first byte of shared memory
WIDER = {"i2": "i4", "u2": "u4", "i4": "i8", "u4": "u8"}


def operation(machine, instruction):
    """Return what executes the instruction."""
    base, *modifiers = instruction.opcode.split(".")
    make = OPERATIONS.get(base)
    try:
        if make is None or instruction.predicate is not None:
            raise KeyError(base)
        return make(machine, modifiers, *instruction.operands)
    except (KeyError, TypeError, ValueError) as error:
        raise NotImplementedError(f"unknown instruction: {instruction.text} ({error})") from error


def _of_numbers(compute):
    """Instructions with one type, all of whose sources have it."""

    def make(machine, modifiers, target, *sources):
        kind = modifiers[-1]
        function = compute(kind, modifiers[:-1])
        write, read = writer(machine, target), [reader(machine, source, kind) for source in sources]
        if len(read) == 1:
            (a,) = read
            return lambda: write(function(a()))
        if len(read) == 2:
            a, b = read
            return lambda: write(function(a(), b()))
        return lambda: write(function(*(part() for part in read)))

    return make


def _rounded(modifiers):
    """Refuse roundings and saturations that are not the default."""
    if set(modifiers) - {"rn"}:
        raise ValueError(f"modifiers {modifiers}")


def _plain(function):
    def compute(kind, modifiers):
        _rounded(modifiers)
        return function

    return _of_numbers(compute)


def _extreme(of_floats, of_integers):
    return _of_numbers(lambda kind, modifiers: of_floats if kind[0] == "f" else of_integers)


def _fma(kind, modifiers):
    _rounded(modifiers)
    wide = np.float64 if kind == "f32" else np.longdouble
    return lambda a, b, c: (a.astype(wide) * b + c).astype(dtype(kind))


def _divided(remainder):
    def compute(kind, modifiers):
        if kind[0] == "f" or modifiers:
            raise ValueError("only of integers")

        def divide(a, b):
            quotient = np.where(b == 0, ~np.zeros_like(b), np.abs(a) // np.where(b == 0, 1, np.abs(b)))
            quotient = quotient.astype(a.dtype)
            if kind[0] == "s":
                quotient = np.where((a < 0) != (b < 0), -quotient, quotient)
            return a - quotient * b if remainder else quotient

        return divide

    return _of_numbers(compute)


def _shift(left):
    def make(machine, modifiers, target, source, count):
        (kind,) = modifiers
        width = 8 * np.dtype(dtype(kind)).itemsize
        write, a, by = (
            writer(machine, target),
            reader(machine, source, kind),
            reader(machine, count, "u32"),
        )

        def shift():
            value, places = a(), np.minimum(by(), width)
            inside = np.minimum(places, width - 1).astype(value.dtype)
            moved = value << inside if left else value >> inside
            fill = value.dtype.type(0) if left or kind[0] != "s" else value >> value.dtype.type(width - 1)
            write(np.where(places < width, moved, fill).astype(value.dtype))

        return shift

    return make


def _upper_half(x, y):
    """Upper 64 bits of the product of numbers of 64 bits."""
    kind, u, low = x.dtype, np.uint64, np.uint64(2**32 - 1)
    a, b = (part.astype(u) for part in (x, y))
    (a0, a1), (b0, b1) = ((part & low, part >> u(32)) for part in (a, b))
    middle = a1 * b0 + (a0 * b0 >> u(32))
    upper = a1 * b1 + (middle >> u(32)) + ((a0 * b1 + (middle & low)) >> u(32))
    return (upper - np.where(x < 0, b, u(0)) - np.where(y < 0, a, u(0))).astype(kind)


def _multiply(machine, modifiers, target, a, b, c=None):
    """mul and mad of integers: a half, or all bits."""
    half, kind = modifiers if len(modifiers) == 2 else (None, *modifiers)
    if kind[0] == "f":
        if c is not None:
            raise ValueError("mad of floats")
        return _plain(np.multiply)(machine, modifiers, target, a, b)
    if half == "hi":
        if kind not in ("u64", "s64") or c is not None:
            raise ValueError("but of 64 bits, without a sum")
        return _of_numbers(lambda *_: _upper_half)(machine, [kind], target, a, b)
    wide = {"lo": dtype(kind), "wide": WIDER.get(dtype(kind))}[half]
    sum_kind = kind[0] + str(8 * int(wide[1]))
    write, x, y = writer(machine, target), reader(machine, a, kind), reader(machine, b, kind)
    if c is None:
        return lambda: write(x().astype(wide) * y().astype(wide))
    z = reader(machine, c, sum_kind)
    return lambda: write(x().astype(wide) * y().astype(wide) + z())


COMPARE = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
    "ge": np.greater_equal,
}  # fmt: skip


def _compare(machine, modifiers, target, a, b):
    relation, kind = modifiers
    unordered = kind[0] == "f" and relation.endswith("u")
    function = COMPARE[relation.removesuffix("u") if unordered else relation]
    write, x, y = writer(machine, target), reader(machine, a, kind), reader(machine, b, kind)

    def compare():
        left, right = x(), y()
        found = function(left, right)
        if kind[0] == "f":  # what is no number is in no relation, or in each
            none = np.isnan(left) | np.isnan(right)
            found = found | none if unordered else found & ~none
        write(np.broadcast_to(found, machine.lanes.shape).astype("u1"))

    return compare


def _select(machine, modifiers, target, a, b, predicate):
    (kind,) = modifiers
    write, x, y = writer(machine, target), reader(machine, a, kind), reader(machine, b, kind)
    condition = reader(machine, predicate, "pred")
    return lambda: write(np.where(condition(), x(), y()).astype(dtype(kind)))


def _logic(function):
    def make(machine, modifiers, target, *sources):
        (kind,) = modifiers
        write, read = writer(machine, target), [reader(machine, source, kind) for source in sources]
        if kind == "pred":
            return lambda: write(function(*(part() for part in read)).astype("u1"))
        return lambda: write(function(*(part() for part in read)))

    return make


def _move(machine, modifiers, target, source):
    (kind,) = modifiers
    if source[0] == "{":
        parts = vector(source)
        width = WIDTHS[kind] // len(parts)
        write, read = writer(machine, target), [reader(machine, part, f"b{8 * width}") for part in parts]

        def pack():
            words = np.stack([np.broadcast_to(part(), machine.lanes.shape) for part in read], axis=1)
            write(words.view(f"u{WIDTHS[kind]}")[:, 0])

        return pack
    if target[0] == "{":
        parts = vector(target)
        width = WIDTHS[kind] // len(parts)
        read, write = reader(machine, source, kind), [writer(machine, part) for part in parts]

        def unpack():
            words = np.ascontiguousarray(read())[:, None].view(f"u{width}")
            for i, part in enumerate(write):
                part(words[:, i].copy())

        return unpack
    write, read = writer(machine, target), reader(machine, source, kind)
    if kind == "pred":
        return lambda: write(np.broadcast_to(read(), machine.lanes.shape).astype("u1"))
    return lambda: write(read())


def bfloat16(values):
    """Bits of float32 values, rounded to nearest."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return np.where(np.isnan(values), 0x7FFF, bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)


def _narrow(kind, values):
    return bfloat16(values) if kind == "bf16" else values.astype(np.float16).view(np.uint16)


def _convert(machine, modifiers, target, *sources):
    *rounding, to, source_kind = modifiers
    if rounding == ["rni"] and to == source_kind and to[0] == "f":  # to a whole number
        write, read = writer(machine, target), reader(machine, *sources, to)
        return lambda: write(np.rint(read()))
    _rounded(rounding)
    write, read = writer(machine, target), [reader(machine, source, source_kind) for source in sources]
    if to.endswith("x2"):
        high, low = read
        kind = to.removesuffix("x2")
        return lambda: write(_narrow(kind, high()).astype("u4") << 16 | _narrow(kind, low()).astype("u4"))
    (value,) = read
    if to in ("bf16", "f16"):
        return lambda: write(_narrow(to, value()))
    if to[0] != "f" and source_kind[0] == "f":
        raise ValueError("of a float to an integer")
    return lambda: write(value().astype(dtype(to)))


def _convert_address(machine, modifiers, target, source):
    """Of global memory all addresses are alike; generic ones of shared memory begin elsewhere."""
    move = {"to.global": 0, "global": 0, "to.shared": -GENERIC, "shared": GENERIC}[".".join(modifiers[:-1])]
    write, read = writer(machine, target), reader(machine, source, "s64")
    return lambda: write(read() + np.int64(move))


def _flushed(function):
    """``function`` of float32, from and to which what is below 2**-126 in size is 0."""

    def flush(x):
        return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)

    return lambda x: flush(function(flush(x))).astype(np.float32)


def _exp2(kind, modifiers):
    if (kind, *modifiers) != ("f32", "approx", "ftz"):
        raise ValueError(f"modifiers {modifiers}")
    return _flushed(np.exp2)


def _reciprocal(kind, modifiers):
    if modifiers == ["approx", "ftz"] and kind == "f64":  # of the upper half of the bits
        return lambda x: ((1 / x).view("u8") & np.uint64(0xFFFFFFFF00000000)).view("f8")
    if modifiers == ["approx", "ftz"]:
        return _flushed(lambda x: 1 / x)
    _rounded(modifiers)
    return lambda x: (1 / x.astype(np.longdouble)).astype(x.dtype)


def _load(machine, modifiers, target, address):
    space, *rest, kind = modifiers
    if space == "param":
        number, nbytes = machine.program.parameters[address.strip("[]")]
        write = writer(machine, target)
        value = np.array(machine.arguments[number], f"u{nbytes}")
        return lambda: write(value)
    targets, at = vector(target) if target[0] == "{" else [target], address_of(machine, address)
    if int({1: ["v1"], 2: ["v2"], 4: ["v4"]}[len(targets)][0][1]) != _count(rest):
        raise ValueError("vector")
    size, count = np.dtype(dtype(kind)).itemsize, len(targets)
    write = [writer(machine, part) for part in targets]
    if space == "global":
        constant = "nc" in rest

        def fetch():
            lanes = machine.lanes + machine.first_lane
            return machine.memory.load(at(), size, count, lanes, constant)

    elif space == "shared":

        def fetch():
            return machine.shared.load(at(), size * count, machine.lanes).view("u1")

    else:
        raise KeyError(space)

    def load():
        found = np.ascontiguousarray(fetch()).view(dtype(kind))
        for i, part in enumerate(write):
            part(found[:, i].copy())

    return load


def _count(modifiers):
    counts = [int(part[1:]) for part in modifiers if re.fullmatch(r"v\d", part)]
    if set(modifiers) - {"nc", "v2", "v4"}:
        raise ValueError(f"modifiers {modifiers}")
    return counts[0] if counts else 1


def _store(machine, modifiers, address, source):
    space, *rest, kind = modifiers
    sources, at = vector(source) if source[0] == "{" else [source], address_of(machine, address)
    if len(sources) != _count(rest):
        raise ValueError("vector")
    read = [reader(machine, part, kind) for part in sources]

    def words():
        parts = [np.broadcast_to(part(), machine.lanes.shape) for part in read]
        return np.stack(parts, axis=1).view("u1")

    def to_global():
        found = words()
        machine.memory.store(at(), found, found.shape[1], machine.lanes + machine.first_lane)

    def to_shared():
        machine.shared.store(at(), words().view("u4"), machine.lanes)

    return {"global": to_global, "shared": to_shared}[space]


def _copy(machine, modifiers, *operands):
    """cp.async: bytes that arrive when their thread waits."""
    if modifiers == ["async", "wait_all"] and not operands:
        return lambda: machine.shared.wait(machine.lanes)
    target, source, nbytes = operands
    if modifiers not in (["async", "cg", "shared", "global"], ["async", "ca", "shared", "global"]):
        raise ValueError(f"modifiers {modifiers}")
    if modifiers[1] == "cg" and nbytes != "16":
        raise ValueError("cg copies 16 bytes")
    to, of, size = address_of(machine, target), address_of(machine, source), int(nbytes)

    def copy():
        found = machine.memory.load(of(), size, 1, machine.lanes + machine.first_lane, False)
        machine.shared.copy(to(), found.view("u4"), machine.lanes)

    return copy


def _barrier(machine, modifiers, number):
    if (modifiers, number) != (["sync"], "0"):
        raise ValueError("barrier")
    return lambda: machine.shared.barrier(machine.lanes)


def _shuffle(machine, modifiers, target, source, lane, clamp, mask):
    if modifiers != ["sync", "bfly", "b32"]:
        raise ValueError(f"modifiers {modifiers}")
    target = target.partition("|")[0]
    write, read = writer(machine, target), [reader(machine, x, "u32") for x in (source, lane, clamp, mask)]
    return lambda: write(warp.butterfly(*(np.broadcast_to(x(), machine.lanes.shape) for x in read)))


def _matrices(machine, modifiers, target, address):
    """ldmatrix: four 8×8 matrices of 16 bits, whose rows begin where the lanes of a warp say."""
    rest = list(modifiers)
    transposed = "trans" in rest
    if transposed:
        rest.remove("trans")
    if rest != ["sync", "aligned", "m8n8", "x4", "shared", "b16"]:
        raise ValueError(f"modifiers {modifiers}")
    at, write = address_of(machine, address), [writer(machine, part) for part in vector(target)]

    def load():
        words = warp.matrices(machine.shared.load(at(), 16, machine.lanes), transposed)
        for i, part in enumerate(write):
            part(words[:, i].copy())

    return load


def _products(machine, modifiers, d, a, b, c):
    """mma: D = A B + C of 16×8 numbers, from the registers of a warp."""
    *shape, left, right, last = modifiers
    if shape != ["sync", "aligned", "m16n8k16", "row", "col", "f32"] or last != "f32" or left != right:
        raise ValueError(f"modifiers {modifiers}")
    a, b = ([reader(machine, part, "b32") for part in vector(x)] for x in (a, b))
    c, d = [reader(machine, part, "f32") for part in vector(c)], [writer(machine, p) for p in vector(d)]
    if [len(x) for x in (d, a, b, c)] != [4, 4, 2, 4]:
        raise ValueError("fragments")

    def stacked(parts):
        return np.stack([np.broadcast_to(part(), machine.lanes.shape) for part in parts], axis=1)

    def multiply():
        found = warp.product(left, stacked(a), stacked(b), stacked(c))
        for i, part in enumerate(d):
            part(found[:, i].copy())

    return multiply


def _insert_bits(machine, modifiers, target, a, b, start, length):
    (kind,) = modifiers
    write, x, y = writer(machine, target), reader(machine, a, kind), reader(machine, b, kind)
    first, count = (int(reader(machine, part, "u32")()) for part in (start, length))
    field = (1 << count) - 1

    def insert():
        into, one = y(), y().dtype.type
        write(into & ~one(field << first) | (x() & one(field)) << one(first))

    return insert


def _funnel(machine, modifiers, target, low, high, count):
    if modifiers != ["r", "wrap", "b32"]:
        raise ValueError(f"modifiers {modifiers}")
    write, read = writer(machine, target), [reader(machine, x, "u32") for x in (low, high, count)]

    def shift():
        low, high, count = (x().astype(np.uint64) for x in read)
        write(((high << np.uint64(32) | low) >> (count & np.uint64(31))).astype(np.uint32))

    return shift


def _copy_sign(sign, x):
    return np.copysign(x, sign)


OPERATIONS = {
    "abs": _plain(np.abs), "add": _plain(np.add), "and": _logic(np.bitwise_and), "bar": _barrier,
    "bfi": _insert_bits, "copysign": _plain(_copy_sign), "cp": _copy, "cvt": _convert,
    "cvta": _convert_address, "div": _divided(False),
    "ex2": _of_numbers(_exp2), "fma": _of_numbers(_fma), "ld": _load, "ldmatrix": _matrices,
    "mad": _multiply, "max": _extreme(np.fmax, np.maximum), "min": _extreme(np.fmin, np.minimum),
    "mma": _products, "mov": _move, "mul": _multiply, "neg": _plain(np.negative), "not": _logic(np.invert),
    "or": _logic(np.bitwise_or), "rcp": _of_numbers(_reciprocal), "rem": _divided(True), "selp": _select,
    "setp": _compare, "shf": _funnel, "shfl": _shuffle, "shl": _shift(True), "shr": _shift(False),
    "st": _store, "sub": _plain(np.subtract), "xor": _logic(np.bitwise_xor),
}  # fmt: skip
