"""Runs the PTX that the compiler makes of a kernel, instruction by instruction, without a GPU.

Registers are NumPy arrays over *lanes*, the threads of several blocks at once. Each lane has a program
counter of its own: a branch on which lanes disagree splits their group, and groups that come to the same
instruction are one again. An instruction that a whole warp executes together waits for all 32 lanes, a
barrier for all lanes of the block; where they never come, the run ends with a fault. What an instruction does
is in :mod:`ptx_instructions`; one that is not there stops the run with its text.
"""

import numpy as np
from ptx_instructions import BARRIER, COLLECTIVE, operation
from ptx_memory import Fault, Global, Shared
from ptx_text import SHARED_BEGIN

__all__ = ["WARP", "run"]

WARP = 32
LANES = 4096  # about as many at once: NumPy costs little more for them than for one


def run(program, grid, threads, arguments, buffers, random):
    """Run a launch; return which opcodes were executed.

    ``arguments`` are the bits of each parameter, in order.
    """
    bound = program.bounds.get("maxntid", threads)
    if threads > bound or threads % WARP:
        raise Fault(f"{threads} threads are launched, where whole warps of at most {bound} fit")
    blocks = [(x, y) for x in range(grid[0]) for y in range(grid[1])]
    random.shuffle(blocks)
    at_once = min(max(LANES // threads, 1), len(blocks))
    machine = Machine(program, at_once, threads, arguments, Global(buffers))
    try:
        with np.errstate(all="ignore"):
            for first in range(0, len(blocks), at_once):
                machine.run(blocks[first : first + at_once], first)
        instructions = zip(program.instructions, machine.code, strict=True)
        return {instruction.opcode for instruction, operate in instructions if operate is not None}
    finally:
        machine.code.clear()  # what it has refers to the machine, whose registers are large


class Machine:
    """Some blocks of a launch at a time."""

    def __init__(self, program, blocks, threads, arguments, memory):
        self.program, self.threads, self.arguments, self.memory = program, threads, arguments, memory
        self.total = blocks * threads
        lanes = np.arange(self.total)
        self.special = {name: np.zeros(self.total, np.uint32) for name in ("%tid.x", "%ctaid.x", "%ctaid.y")}
        self.special["%tid.x"][:] = lanes % threads
        self.shared = Shared(SHARED_BEGIN, program.shared_end, blocks, threads)
        self.registers = {}
        self.code = [None] * len(program.instructions)
        self.leaders = set(program.labels.values())

    def run(self, blocks, first):
        """Run blocks, of which so many came before in this launch."""
        for axis in range(2):
            numbers = np.repeat(np.array(blocks, np.uint32)[:, axis], self.threads)
            self.special["%ctaid." + "xy"[axis]][: numbers.size] = numbers
        for bits in self.registers.values():
            bits.view(f"i{bits.itemsize}")[:] = -1
        self.shared.clear()
        self.first_lane = first * self.threads
        self.groups, self.parked = {0: np.arange(len(blocks) * self.threads)}, set()
        while self.groups:
            waiting = self.groups.keys() - self.parked
            if not waiting:
                texts = {self.program.instructions[pc].text for pc in self.groups}
                raise Fault(f"threads wait for each other at {'; '.join(sorted(texts))}")
            self._advance(min(waiting))

    def register(self, name):
        """Bits of a register, of all lanes; those never written are no number."""
        found = self.registers.get(name)
        if found is None:
            width = self.program.registers[name]
            found = np.full(self.total, -1, f"i{width}").view(f"u{width}")
            self.registers[name] = found
        return found

    def enter(self, lanes):
        """Go on with ``lanes``: ``at`` selects them."""
        self.lanes, self.at = lanes, slice(None) if lanes.size == self.total else lanes

    def _advance(self, pc):
        """Run a group from ``pc`` on to where others may join it."""
        self.enter(self.groups.pop(pc))
        while True:
            instruction = self.program.instructions[pc]
            opcode = instruction.opcode
            if opcode in ("bra", "bra.uni"):
                return self._branch(instruction, pc)
            if opcode == "ret":
                self.shared.end(self.lanes)
                return None
            size = WARP if opcode.startswith(COLLECTIVE) else self.threads if opcode == BARRIER else 1
            if size > 1 and not self._gather(size, pc):
                return None
            operate = self.code[pc]
            if operate is None:
                operate = self.code[pc] = operation(self, instruction)
            try:
                operate()
            except Fault as fault:
                raise Fault(f"{fault}: {instruction.text}") from None
            pc += 1
            if pc in self.leaders:
                return self._put(pc, self.lanes)

    def _gather(self, size, pc):
        """Go on with those warps or blocks all of whose lanes are here; the others wait."""
        others = self.groups.pop(pc, None)
        if others is not None:
            self.enter(np.sort(np.concatenate([others, self.lanes])))
        if self.lanes.size == self.total:
            return True
        units, counts = np.unique(self.lanes // size, return_counts=True)
        if (counts == size).all():
            return True
        whole = np.isin(self.lanes // size, units[counts == size])
        self._put(pc, self.lanes[~whole])
        self.parked.add(pc)
        self.enter(self.lanes[whole])
        return whole.any()

    def _branch(self, instruction, pc):
        target = self.program.labels[instruction.operands[0]]
        if instruction.predicate is None:
            return self._put(target, self.lanes)
        taken = self.register(instruction.predicate.lstrip("!"))[self.at].astype(bool)
        taken ^= instruction.predicate.startswith("!")
        self._put(target, self.lanes[taken])
        self._put(pc + 1, self.lanes[~taken])

    def _put(self, pc, lanes):
        if lanes.size:
            others = self.groups.get(pc)
            self.groups[pc] = lanes if others is None else np.sort(np.concatenate([others, lanes]))
            self.parked.discard(pc)
