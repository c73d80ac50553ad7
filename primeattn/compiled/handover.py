"""How a call and its helpers meet: in compiled code, where a signal handler cannot raise.

A call has a *word*, the address of an int64. It is 0 until the calling thread opens the call; while it is
open, helpers may enter, and are counted. When the calling thread has done its part, it closes the call and
waits until nobody is inside. So helpers are inside only while the caller is in one compiled function, and the
memory they use cannot be freed. A helper that comes too early or too late does nothing, and is not needed.
"""

from __future__ import annotations

import ctypes
import os

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from primeattn.compiled.addresses import atomic_add
from primeattn.compiled.jit import cached_njit, part_njit

ZERO, ONE = np.int64(0), np.int64(1)
OPEN = np.int64(1 << 40)  # word: OPEN * (0 not opened, 1 open, 2 or more closed) + helpers inside
YIELDS = 200  # turns of waiting that only yield; later ones sleep
EARLY = 220  # turns that a helper waits for a call to open: about a millisecond
PATIENCE = 400  # turns after which a caller no longer expects a helper: about twenty milliseconds
NAP = 50 if os.name == "posix" else 1  # microseconds, or milliseconds on Windows


def _waiting():
    if os.name == "posix":
        return ctypes.CDLL(None).sched_yield, ctypes.CDLL(None).usleep
    return ctypes.windll.kernel32.SwitchToThread, ctypes.windll.kernel32.Sleep


for _name, _function in zip(("primeattn_yield", "primeattn_sleep"), _waiting(), strict=True):
    llvmlite.binding.add_symbol(_name, ctypes.cast(_function, ctypes.c_void_p).value)
_yield = types.ExternalFunction("primeattn_yield", types.int32())
_sleep = types.ExternalFunction("primeattn_sleep", types.int32(types.uint32))


@intrinsic
def call(typingctx, address, one, arguments):
    """Call the C function at ``address`` with a tuple of numbers; it returns a number like ``one``."""

    def codegen(context, builder, sig, args):
        kinds = [context.get_value_type(kind) for kind in sig.args[2].types]
        function = ir.FunctionType(context.get_value_type(sig.return_type), kinds)
        pointer = builder.inttoptr(args[0], function.as_pointer())
        return builder.call(pointer, cgutils.unpack_tuple(builder, args[2], len(kinds)))

    return one(address, one, arguments), codegen


@part_njit
def pause(turn):
    """Let other threads run, for longer after many turns; return the number of turns so far."""
    if turn < YIELDS:
        _yield()
    else:
        _sleep(NAP)
    return turn + 1


@part_njit
def enter(word, helps):
    """Open the call as its caller, or enter it as a helper; return whether the call is open."""
    if not helps:
        atomic_add(word, OPEN)
        return True
    before = atomic_add(word, ONE)
    if OPEN <= before < 2 * OPEN:
        return True
    atomic_add(word, -ONE)
    return False


@part_njit
def leave(word, helps):
    """Leave the call as a helper; as its caller, close it and wait until nobody is inside."""
    if helps:
        atomic_add(word, -ONE)
        return
    atomic_add(word, OPEN)
    turn = ZERO
    while atomic_add(word, ZERO) % OPEN > 0:
        turn = pause(turn)


@cached_njit
def is_open(word):
    """Whether the call is open; waits up to about a millisecond for its caller to open it."""
    turn = ZERO
    while turn < EARLY:
        now = atomic_add(word, ZERO)
        if now >= OPEN:
            return now < 2 * OPEN
        turn = pause(turn)
    return False


@cached_njit
def enter_helper(word):
    """Enter the call as a helper; return whether it was open."""
    return enter(word, True)


@cached_njit
def finish(word):
    """Leave the call as a helper, and close it: nothing is left to do."""
    atomic_add(word, OPEN - ONE)


@cached_njit
def watch(word):
    """Open the call and wait until a helper has closed it and nobody is inside; give up if none comes."""
    enter(word, False)
    turn = ZERO
    while True:
        now = atomic_add(word, ZERO)
        if now % OPEN == 0 and (now >= 2 * OPEN or turn >= PATIENCE):
            break
        turn = pause(turn)
    leave(word, False)
