"""Sets of positive integers, generated up to any limit: number theory only, nothing about attention.

>>> import primeattn as pa
>>> pa.sequences.primes(20)
array([ 2,  3,  5,  7, 11, 13, 17, 19])
>>> pa.sequences.squares(30)
array([ 1,  4,  9, 16, 25])
>>> pa.sequences.mian_chowla(50)
array([ 1,  2,  4,  8, 13, 21, 31, 45])
>>> (2 * pa.sequences.primes | pa.sequences.powers(3))(15)
array([ 1,  3,  4,  6,  9, 10, 14])

``names()`` and ``families()`` list them all. Each file holds one idea: sieves, polynomial and exponential
growth, digits, additive bases, Golomb rulers, Beatty sequences, residues; then combinators and, for fair
comparisons, controls. To add a sequence, write one function that returns the terms in (start, stop]; see
``register``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = [
    "Sequence",
    "families",
    "from_array",
    "from_callable",
    "from_json",
    "get",
    "names",
    "parse",
    "register",
]

from primeattn.sequences.notation import parse
from primeattn.sequences.registry import families, from_json, get, names, register
from primeattn.sequences.value import Sequence, from_array, from_callable

# Each of these files adds its sequences to this namespace and to __all__.
from primeattn.sequences import additive, beatty, combinators, controls, digits  # noqa: F401  # isort: skip
from primeattn.sequences import exponential, golomb, polynomial, residues, sieves  # noqa: F401  # isort: skip

if TYPE_CHECKING:  # what these files add, for tools that read types
    cubes: Sequence
    evil: Sequence
    fibonacci: Sequence
    lucas: Sequence
    lucky: Sequence
    mian_chowla: Sequence
    moser_de_bruijn: Sequence
    powers_of_two: Sequence
    prime_powers: Sequence
    primes: Sequence
    semiprimes: Sequence
    sophie_germain: Sequence
    squares: Sequence
    stanley: Sequence
    three_smooth: Sequence
    triangular: Sequence
    twin_primes: Sequence
    ulam: Sequence
    wythoff_lower: Sequence
    wythoff_upper: Sequence

    def complement(base: Sequence) -> Sequence: ...

    def dilated(rate: int, count: int) -> Sequence: ...

    def golomb_ruler(order: int) -> Sequence: ...

    def kth_powers(k: int) -> Sequence: ...

    def matched_random(base: Sequence, seed: int) -> Sequence: ...

    def powers(base: int) -> Sequence: ...

    def quadratic_residues(q: int) -> Sequence: ...

    def shift(base: Sequence, by: int) -> Sequence: ...

    def smooth(p: int) -> Sequence: ...

    def strided(stride: int) -> Sequence: ...

    def thin(base: Sequence, share: float, seed: int) -> Sequence: ...

    def uniform_random(density: float, seed: int) -> Sequence: ...
