"""What each study of ``primeattn study`` trains, and what is claimed before it does: plain data."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from primeattn.checks import as_int
from primeattn.study.naming import drawn, named
from primeattn.study.runs import grid
from primeattn.tasks import from_json

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["protocol", "protocol_runs"]

_THREE = ["primes", "squares", "mian_chowla"]
_RANDOM = [f"random as {name}" for name in _THREE]
_CLAIMS = [
    # (this one, does better than this one), with as many pairs in both
    ["primes", "random as primes"],
    ["primes", "window as primes"],
    ["primes", "strided as primes"],
    ["primes", "powers of two as primes"],
    ["squares", "random as squares"],
    ["mian_chowla", "random as mian_chowla"],
]
_QUICK_SIZES = {"width": 32, "heads": 1, "batch": 32, "examples": 512}

_PROTOCOLS = {
    "needle": {
        "question": "Is a value found wherever as many layers connect the distance, and nowhere else?",
        "figure": "recall",
        "expected": "Accuracy 1 where hops <= layers, chance elsewhere, for every pattern.",
        "tasks": [{"name": "needle", "length": 96}],
        "patterns": [*_THREE, *_RANDOM[:1], "window as primes", "powers of two as primes"],
        "layers": [1, 2, 3],
        "lrs": [1e-3, 3e-3],
        "seeds": 3,
        "sizes": {"width": 64, "heads": 1, "steps": 800, "batch": 32, "examples": 8192},
        "claims": [claim for claim in _CLAIMS if claim[1] not in (*_RANDOM[1:], "strided as primes")],
        "quick": {
            "tasks": [{"name": "needle", "length": 48}],
            "patterns": ["primes", "squares", "window as primes"],
            "layers": [1, 2],
            "lrs": [5e-3],
            "seeds": 3,
            "sizes": {**_QUICK_SIZES, "steps": 400, "examples": 2048},
        },
    },
    "mqar": {
        "question": "Does recall of many pairs follow the one-hop ceiling, or the numbers in the pattern?",
        "figure": "ceiling",
        "guess": 1 / 16,  # among the values at hand
        "expected": "Accuracy on the one-hop ceiling, at most 1 / pairs above it, for every pattern; a "
        "second layer adds little. Primes do as well as random offsets of the same scales.",
        "tasks": [
            {"name": "mqar", "length": 128, "pairs": 16, "vocab": 128},
            {"name": "mqar", "length": 256, "pairs": 16, "vocab": 128},
        ],
        "patterns": [*_THREE, *_RANDOM, "window as primes", "dense"],
        "layers": [1, 2],
        "lrs": [2e-3, 4e-3, 8e-3],
        "seeds": 3,
        "sizes": {"width": 64, "heads": 1, "steps": 2000, "batch": 32, "examples": 1024},
        "claims": [claim for claim in _CLAIMS if claim[1] in (*_RANDOM, "window as primes")],
        "quick": {
            "tasks": [{"name": "mqar", "length": 64, "pairs": 4, "vocab": 32}],
            "guess": 1 / 4,
            "patterns": ["primes", "squares", "random as primes", "window as primes", "dense"],
            "layers": [1],
            "lrs": [1e-2],
            "seeds": 3,
            "sizes": {**_QUICK_SIZES, "steps": 400},
        },
    },
    "text": {
        "question": "At equal cost, does any set of offsets predict text better than a window?",
        "figure": "scores",
        "expected": "The window is within 0.02 bits of the best; primes lose to it. Dense gains little.",
        "tasks": [{"name": "text", "length": 256}, {"name": "text", "length": 1024}],
        "patterns": [
            "primes",
            "squares as primes",
            "mian_chowla as primes",
            "prime_powers",
            "primes as prime_powers",
            "primes and squares as primes",
            "random as primes",
            "window as primes",
            "strided as primes",
            "dense",
        ],
        "layers": [2],
        "lrs": [2e-3, 5e-3],
        "seeds": 3,
        "sizes": {"width": 64, "heads": 2, "steps": 1200, "batch": 8, "examples": 256},
        "claims": [
            *_CLAIMS[:3],
            ["squares as primes", "window as primes"],
            ["mian_chowla as primes", "window as primes"],
            ["prime_powers", "primes as prime_powers"],
            ["primes and squares as primes", "primes"],
        ],
        "quick": {
            "tasks": [{"name": "text", "length": 128}],
            "patterns": ["primes", "squares as primes", "random as primes", "window as primes", "dense"],
            "layers": [1],
            "lrs": [5e-3],
            "seeds": 3,
            "sizes": {"width": 32, "heads": 2, "steps": 150, "batch": 8, "examples": 128},
        },
    },
    "copy": {
        "question": "Is a token copied over a distance exactly where the layers connect it?",
        "figure": "recall",
        "expected": "Accuracy 1 where hops <= layers, chance elsewhere.",
        "tasks": [{"name": "copy", "length": 96, "distance": distance} for distance in range(24, 37)],
        "patterns": [*_THREE, "random as primes", "window as primes"],
        "layers": [1, 2],
        "lrs": [3e-3],
        "seeds": 3,
        "sizes": {"width": 64, "heads": 1, "steps": 300, "batch": 16, "examples": 256},
        "claims": _CLAIMS[:2],
        "quick": {
            "tasks": [{"name": "copy", "length": 48, "distance": distance} for distance in (23, 24, 25)],
            "patterns": ["primes", "squares"],
            "layers": [1],
            "lrs": [1e-2],
            "seeds": 3,
            "sizes": {**_QUICK_SIZES, "steps": 200},
        },
    },
    "induction": {
        "question": "Is what followed a token found where one layer connects it?",
        "figure": "recall",
        "expected": "Accuracy 1 at distances of the pattern, near chance at others, also with two layers.",
        "tasks": [{"name": "induction", "length": 96}],
        "patterns": [*_THREE, "random as primes", "window as primes", "dense"],
        "layers": [1, 2],
        "lrs": [1e-3, 3e-3],
        "seeds": 3,
        "sizes": {"width": 64, "heads": 1, "steps": 1200, "batch": 32, "examples": 4096},
        "claims": _CLAIMS[:2],
        "quick": {
            "tasks": [{"name": "induction", "length": 48, "symbols": 8}],
            "patterns": ["primes", "squares", "dense"],
            "layers": [1],
            "lrs": [1e-2],
            "seeds": 3,
            "sizes": {**_QUICK_SIZES, "steps": 500, "examples": 2048},
        },
    },
    "pixels": {
        "question": "Does it matter whether the row width is among the offsets?",
        "figure": "scores",
        "expected": "The pixel above is the token width - 1 back. Primes beat random offsets where that is "
        "prime, in rows of 30 (and 12) pixels, and lose to them in rows of 28 (and 16).",
        "tasks": [{"name": "pixels", "width": width, "height": 16} for width in (28, 30)],
        "patterns": ["primes", "squares as primes", "random as primes", "window as primes", "dense"],
        "layers": [2],
        "lrs": [3e-3],
        "seeds": 3,
        "sizes": {"width": 64, "heads": 2, "steps": 800, "batch": 8, "examples": 256},
        "claims": [*_CLAIMS[:2], ["squares as primes", "window as primes"]],
        "quick": {
            "tasks": [{"name": "pixels", "width": width, "height": 8} for width in (12, 16)],
            "patterns": ["primes", "random as primes", "window as primes"],
            "layers": [1],
            "seeds": 3,
            "sizes": {"width": 32, "heads": 1, "steps": 200, "batch": 8, "examples": 128},
        },
    },
}


def protocol(name: str, quick: bool = False, **changes: Any) -> dict:
    """Return a copy of the protocol ``name``, in small if ``quick``, with ``changes`` that are not None.

    ``changes`` are ``patterns``, ``layers``, ``lrs``, ``seeds`` and ``steps``. Claims about patterns that are
    left out are left out too. "full" tells whether it is the protocol itself.

    Parameters
    ----------
    name : str
        Which protocol.
    quick : bool
        Whether to make it small.
    **changes : optional
        As above.

    Returns
    -------
    dict
        Of JSON types.

    Raises
    ------
    TypeError, ValueError
        For an unknown name or change, and for patterns, layers or rates that are no lists.

    See Also
    --------
    protocol_runs : Its runs.

    Examples
    --------
    >>> from primeattn.study import protocol
    >>> made = protocol("needle", quick=True, seeds=1)
    >>> made["patterns"], made["seeds"], made["claims"]
    (['primes', 'squares', 'window as primes'], 1, [['primes', 'window as primes']])
    """
    if not isinstance(name, str) or name not in _PROTOCOLS:
        raise ValueError(f"study: expected one of {', '.join(_PROTOCOLS)}, got {name!r}")
    if unknown := changes.keys() - {"patterns", "layers", "lrs", "seeds", "steps"}:
        raise TypeError(f"changes: expected patterns, layers, lrs, seeds or steps, got {min(unknown)}")
    for key in ("patterns", "layers", "lrs"):
        if changes.get(key) is not None and (not isinstance(changes[key], list) or not changes[key]):
            raise TypeError(f"{key}: expected a list of at least one, got {changes[key]!r}")
    for pattern in changes.get("patterns") or ():
        if not isinstance(pattern, str):
            raise TypeError(f"patterns: expected names, got {pattern!r}")
    made = deepcopy(_PROTOCOLS[name])
    small = made.pop("quick")
    whole = deepcopy(made)
    for key in ("seeds", "steps"):
        if changes.get(key) is not None:
            as_int(key, changes[key], minimum=1)
    for layers in changes.get("layers") or ():
        as_int("layers", layers, minimum=1)
    made |= small if quick else {}
    steps = changes.pop("steps", None)
    made |= {key: value for key, value in changes.items() if value is not None}
    if steps is not None:
        made["sizes"]["steps"] = steps
    made["claims"] = [claim for claim in made["claims"] if set(claim) <= set(made["patterns"])]
    return {"study": name, "full": made == whole, **made}


def protocol_runs(made: Mapping[str, Any]) -> list[dict]:
    """Return the runs of a protocol, seed by seed, so that a part of them is a comparison already.

    Parameters
    ----------
    made : dict
        From ``protocol``.

    Returns
    -------
    list of dict
        As from ``grid``.

    Raises
    ------
    ValueError
        If a name means no pattern of the study's length and heads.

    See Also
    --------
    run : Trains them.

    Examples
    --------
    >>> from primeattn.study import protocol, protocol_runs
    >>> made = protocol("needle", quick=True)
    >>> len(protocol_runs(made)) == 3 * 2 * 3  # patterns, layers, seeds
    True
    """
    runs = []
    for task in map(from_json, made["tasks"]):
        for name in dict.fromkeys(made["patterns"]):
            for layers in made["layers"]:
                for seed in range(made["seeds"]) if drawn(name) else [None]:
                    pattern, heads = named(name, task.length, seed or 0), made["sizes"]["heads"]
                    if isinstance(pattern, list) and len(pattern) != heads:
                        raise ValueError(
                            f"patterns: expected one pattern for all heads or {heads} of them, got {name!r}"
                        )
                    stack = [pattern] * layers
                    some = grid([task], {name: stack}, lrs=made["lrs"], seeds=made["seeds"], **made["sizes"])
                    runs += [run for run in some if seed in (None, run["seed"])]
    return sorted(runs, key=lambda run: run["seed"])
