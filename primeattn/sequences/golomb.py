"""Optimal Golomb rulers: the shortest for their number of marks with all distances distinct."""

from __future__ import annotations

import numpy as np

from primeattn.checks import as_int
from primeattn.sequences.registry import register

__all__ = ["golomb_ruler"]

# Marks beyond 0. See A003022 for their optimality (from order 24 on, searches of distributed.net).
_RULERS = {
    2: "1",
    3: "1 3",
    4: "1 4 6",
    5: "1 4 9 11",
    6: "1 4 10 12 17",
    7: "1 4 10 18 23 25",
    8: "1 4 9 15 22 32 34",
    9: "1 5 12 25 27 35 41 44",
    10: "1 6 10 23 26 34 41 53 55",
    11: "1 4 13 28 33 47 54 64 70 72",
    12: "2 6 24 29 40 43 55 68 75 76 85",
    13: "2 5 25 37 43 59 70 85 89 98 99 106",
    14: "4 6 20 35 52 59 77 78 86 89 99 122 127",
    15: "4 20 30 57 59 62 76 100 111 123 136 144 145 151",
    16: "1 4 11 26 32 56 68 76 115 117 134 150 163 168 177",
    17: "5 7 17 52 56 67 80 81 100 122 138 159 165 168 191 199",
    18: "2 10 22 53 56 82 83 89 98 130 148 153 167 188 192 205 216",
    19: "1 6 25 32 72 100 108 120 130 153 169 187 190 204 231 233 242 246",
    20: "1 8 11 68 77 94 116 121 156 158 179 194 208 212 228 240 253 259 283",
    21: "2 24 56 77 82 83 95 129 144 179 186 195 255 265 285 293 296 310 329 333",
    22: "1 9 14 43 70 106 122 124 128 159 179 204 223 253 263 270 291 330 341 353 356",
    23: "3 7 17 61 66 91 99 114 159 171 199 200 226 235 246 277 316 329 348 350 366 372",
    24: "9 33 37 38 97 122 129 140 142 152 191 205 208 252 278 286 326 332 353 368 384 403 425",
    25: "12 29 39 72 91 146 157 160 161 166 191 207 214 258 290 316 354 372 394 396 431 459 467 480",
    26: "1 33 83 104 110 124 163 185 200 203 249 251 258 314 318 343 356 386 430 440 456 464 475 487 492",
    27: "3 15 41 66 95 97 106 142 152 220 221 225 242 295 330 338 354 382 388 402 415 486 504 523 546 553",
}
_RULERS[28] = _RULERS[27] + " 585"


def _order(order):
    order = as_int("order", order)
    if order not in _RULERS:
        raise ValueError(f"order: expected {min(_RULERS)} to {max(_RULERS)}, got {order}")
    return (order,)


@register(
    "golomb_ruler",
    title="Optimal Golomb ruler of {} marks",
    oeis="A003022",
    count=lambda x, order: min(x**0.5, order - 1),
    asymptotic="√x up to its length, {} - 1 beyond",
    why="the densest Sidon set of its size: two layers waste no path; for lengths of a few hundred",
    params=_order,
    needs=lambda stop: 0,
)
def golomb_ruler(known, start, stop, order):
    """The marks beyond 0 of a shortest ruler with ``order`` marks, 2 to 28, all of whose distances differ.

    A finite set: there is nothing beyond its length (A003022).

    Parameters
    ----------
    order : int
        Number of marks, with the one at 0.

    Returns
    -------
    Sequence
        A finite one.

    See Also
    --------
    from_array : Other finite sets.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.golomb_ruler(5)(100)
    array([ 1,  4,  9, 11])
    """
    marks = np.array(_RULERS[order].split(), np.int64)
    return marks[(marks > start) & (marks <= stop)]
