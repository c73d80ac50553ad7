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
