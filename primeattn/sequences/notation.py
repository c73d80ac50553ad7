"""Sequences as text: reads their repr back without evaluating Python."""

from __future__ import annotations

import ast

from primeattn.sequences.registry import get
from primeattn.sequences.value import Sequence, from_array

__all__ = ["parse"]


def parse(text: str) -> Sequence:
    """Return the sequence that ``text`` describes: a name, a member of a family, or algebra of them.

    The inverse of ``repr``, except for ``from_callable``. Only registered names and ``from_array`` are known;
    nothing is evaluated.

    Parameters
    ----------
    text : str
        Such as "2 * primes | powers(3)", as ``repr`` writes it.

    Returns
    -------
    Sequence
        Equal to the one that has this ``repr``.

    Raises
    ------
    TypeError
        If ``text`` is no text.
    ValueError
        For what does not describe a sequence.

    See Also
    --------
    get : By name alone.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.parse("2 * primes | powers(3)")
    2 * primes | powers(3)
    >>> pa.sequences.parse("matched_random(squares, 0)")(30)
    array([ 1,  6, 13, 21, 23])
    """
    if not isinstance(text, str):
        raise TypeError(f"sequence: expected text, got {text!r}")
    if text.isidentifier():
        return get(text)
    try:
        sequence = _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, _UnknownError):
        sequence = None
    if not isinstance(sequence, Sequence):
        known = "'primes', 'powers(3)' or '2 * primes | squares'"
        raise ValueError(f"sequence: expected such as {known}, got {text!r}")
    return sequence


class _UnknownError(Exception):
    """The text contains something that is not part of the notation."""


def _value(node):
    """Return what a node means: a Sequence, a number, or a list of numbers."""
    match node:
        case ast.Constant(int() | float() as number):
            return number
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as number)):
            return -number
        case ast.List(elements):
            return [_value(element) for element in elements]
        case ast.Name(name):
            return get(name)
        case ast.Call(ast.Name("from_array"), arguments, keywords):
            return from_array(*map(_value, arguments), **{word.arg: _value(word.value) for word in keywords})
        case ast.Call(ast.Name(family), arguments, []):
            return get(family, *map(_value, arguments))
        case ast.BinOp(left, ast.BitOr(), right):
            left, right = _value(left), _value(right)
            if isinstance(left, Sequence) and isinstance(right, Sequence):
                return left | right
        case ast.BinOp(ast.Constant(int() as factor), ast.Mult(), right):
            if isinstance(base := _value(right), Sequence):
                return factor * base
    raise _UnknownError
