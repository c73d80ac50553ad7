"""Reads the PTX of one kernel: instructions and labels, parameters, shared memory, launch bounds."""

import re
from typing import NamedTuple

__all__ = ["Instruction", "Program", "read"]

# Bytes of the declared types of registers; predicates are bytes too.
WIDTHS = {"pred": 1, "b16": 2, "u16": 2, "b32": 4, "u32": 4, "f32": 4, "b64": 8, "u64": 8, "f64": 8}
SHARED_BEGIN = 1024  # address of the first byte of shared memory; lower ones are nobody's
VISIBLE = re.compile(r"\.visible \.entry (\S+)\((.*?)\)(.*?)\{\n(.*)\n\}", re.DOTALL)


class Instruction(NamedTuple):
    """One instruction, with a predicate such as ``%p3`` or ``!%p3``, or None."""

    text: str
    predicate: str | None
    opcode: str  # with its modifiers: setp.lt.s64
    operands: tuple


class Program(NamedTuple):
    """A kernel."""

    instructions: list
    labels: dict  # name -> number of the instruction that it stands before
    registers: dict  # name -> bytes
    parameters: dict  # name -> (number, bytes)
    shared: dict  # name -> address among shared memory
    shared_end: int
    bounds: dict  # maxntid, minnctapersm


def read(text) -> Program:
    """Read PTX that has one kernel and no functions."""
    text = re.sub(r"//.*", "", text.replace("\0", ""))
    found = VISIBLE.findall(text)
    if len(found) != 1 or ".func" in text:
        raise ValueError(f"expected one kernel and no functions, got {len(found)} kernels")
    _, parameters, directives, body = found[0]
    declared = re.findall(r"\.param \.(\w+)\s+(\S+?)(?:,|\s|$)", parameters)
    program = Program([], {}, {}, {}, {}, 0, {})
    program.parameters.update({name: (i, WIDTHS[kind]) for i, (kind, name) in enumerate(declared)})
    for name, value in re.findall(r"\.(\w+) (\d+)", directives):
        program.bounds[name] = int(value)
    outside = text[: text.index(".visible")]
    end = SHARED_BEGIN
    for statement in _statements(outside.partition(".address_size 64")[2] + body):
        end = _take(program, statement, end)
    return program._replace(shared_end=end)


def _statements(text):
    """Statements; registers that braces enclose are renamed, so that they meet no others of that name."""
    text = re.sub(r"(\$\w+):", r"\1:;", text)
    text = re.sub(r"\{(?=\s*\.reg)", "begin;", text)
    text = re.sub(r"(?<=;)\s*\}", "end;", text)  # those of vectors follow no semicolon
    scopes, inside = 0, {}
    for statement in (" ".join(part.split()) for part in text.split(";")):
        if statement == "begin":
            scopes += 1
        elif statement == "end":
            inside = {}
        elif statement:
            if scopes and statement.startswith(".reg") and "<" not in statement:
                inside |= {name: f"{name}@{scopes}" for name in _names(statement)[1]}
            if inside:
                statement = re.sub(r"(?<![\w.$])%?\w+", lambda m, to=inside: to.get(m[0], m[0]), statement)
            yield statement


def _names(statement):
    """Type and names of registers that are declared."""
    kind, names = re.match(r"\.reg \.(\w+) (.*)", statement).groups()
    return kind, re.split(r",\s*", names)


def _take(program, statement, end):
    """Add a statement to the program; return where its shared memory ends."""
    if statement.endswith(":"):
        program.labels[statement[:-1]] = len(program.instructions)
    elif statement.startswith(".reg"):
        kind, names = _names(statement)
        for name in names:
            base, _, count = name.rstrip(">").partition("<")
            numbered = [f"{base}{i}" for i in range(int(count))] if count else [name]
            program.registers.update(dict.fromkeys(numbered, WIDTHS[kind]))
    elif statement.startswith(".shared"):
        align, name, size = re.match(r"\.shared \.align (\d+) \.b8 (\w+)\[(\d+)\]", statement).groups()
        # As little aligned as was asked for: what relies on more fails.
        align = int(align)
        end += -end % (2 * align) + align
        program.shared[name] = end
        return end + int(size)
    elif not statement.startswith(".pragma"):
        if statement.startswith("."):
            raise NotImplementedError(f"unknown directive: {statement}")
        program.instructions.append(_instruction(statement))
    return end


def _instruction(text):
    predicate, opcode, rest = re.match(r"(?:@(!?\S+)\s+)?(\S+)\s*(.*)", text).groups()
    operands = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", rest)
    return Instruction(text, predicate, opcode, tuple(operands))
