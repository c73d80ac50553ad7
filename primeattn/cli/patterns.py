"""The commands about patterns: mask, reach, compare, sequences."""

from __future__ import annotations

import json
from pathlib import Path

from primeattn import sequences
from primeattn._command import add, add_json
from primeattn.files import check_writable
from primeattn.patterns import Pattern

__all__ = ["add_commands"]

_MOST_TOKENS = 2**24
_MOST_COMPARED = 2**20  # tokens
_MOST_LAYERS = 99


def add_commands(commands):
    """Add the four commands to those of an argparse parser."""
    mask = add(
        commands,
        "mask",
        "draw who attends whom under one or several patterns",
        ["primes", "primes squares 'powers(3)' -n 128 --out masks.pdf", "primes -n 100000"],
        run=_mask,
    )
    _add_patterns(mask, 64)
    mask.add_argument("--out", metavar="FILE", default="mask.png", help="the picture (default: mask.png)")
    reach = add(
        commands,
        "reach",
        "show what share of the distances below N each number of layers connects",
        ["primes squares --layers 4", "primes 'matched_random(primes, 0)' --out reach.png"],
        run=_reach,
    )
    _add_patterns(reach, 4097)
    reach.add_argument("--layers", type=int, default=6, metavar="L", help="most layers (default: 6)")
    reach.add_argument("--out", metavar="FILE", help="also draw it")
    compare = add(
        commands,
        "compare",
        "compare patterns: pairs, layers, redundancy, eigenvalues, tiles",
        ["primes squares mian_chowla", "primes 'matched_random(primes, 0)' none --window 8 --json"],
        run=_compare,
    )
    _add_patterns(compare, 4097)
    about = "list the sequences that patterns know by name"
    add_json(add(commands, "sequences", about, ["", "--json"], run=_sequences))


def _add_patterns(command, n):
    command.add_argument(
        "sequences",
        nargs="+",
        metavar="SEQUENCE",
        help="name (primeattn sequences lists them), such as 'powers(3)' or '2 * primes | squares', or none",
    )
    command.add_argument("-n", type=int, default=n, metavar="N", help=f"number of tokens (default: {n})")
    for name, value, about in (("--window", 3, "earlier"), ("--global-tokens", 2, "leading")):
        about = f"{about} tokens that every token attends (default: {value})"
        command.add_argument(name, type=int, default=value, metavar="X", help=about)
    add_json(command)


def _patterns(arguments):
    if arguments.n > _MOST_TOKENS:
        raise ValueError(f"n: expected at most {_MOST_TOKENS}, got {arguments.n}")
    return [
        Pattern(None if text == "none" else text, arguments.window, arguments.global_tokens)
        for text in arguments.sequences
    ]


def _figure_path(text):
    from primeattn.plot.files import check_path

    check_path(Path(text))
    check_writable(Path(text).parent)
    return text


def _draw_and_print(arguments, rows, draw, file):
    """Save the figure that ``draw()`` returns, and print the rows, even if the figure fails."""
    from primeattn import plot

    try:
        plot.save(draw(), file)
    except Exception:
        _print(arguments, rows)
        raise
    _print(arguments, rows, file)


def _print(arguments, rows, file=None):
    if arguments.json:
        print(json.dumps({"n": arguments.n, "patterns": rows, "file": file}, indent=1))
    else:
        print(rows, *([] if file is None else [file]), sep="\n")


def _mask(arguments):
    from primeattn import analysis, plot

    patterns, n, file = _patterns(arguments), arguments.n, _figure_path(arguments.out)
    rows = ({"pattern": repr(p), "pairs": p.num_pairs(n), "density": p.density(n)} for p in patterns)

    def draw():
        return (plot.mask(*patterns, n) if len(patterns) == 1 else plot.masks(patterns, n)[0]).figure

    _draw_and_print(arguments, analysis.Table(rows), draw, file)


def _reach(arguments):
    from primeattn import analysis, plot

    patterns, layers = _patterns(arguments), arguments.layers
    file = None if arguments.out is None else _figure_path(arguments.out)
    if layers > _MOST_LAYERS:
        raise ValueError(f"layers: expected at most {_MOST_LAYERS}, got {layers}")
    rows = analysis.reach_by_layer(patterns, arguments.n, layers)
    if file is None:
        _print(arguments, rows)
    else:
        _draw_and_print(arguments, rows, lambda: plot.reach(patterns, arguments.n, layers).figure, file)


def _compare(arguments):
    from primeattn import analysis

    patterns = _patterns(arguments)
    if arguments.n > _MOST_COMPARED:
        raise ValueError(f"n: expected at most {_MOST_COMPARED}, got {arguments.n}")
    _print(arguments, analysis.compare(patterns, arguments.n))


def _sequences(arguments):
    from primeattn import analysis

    named, families = analysis.catalogue(), sequences.families()
    if arguments.json:
        print(json.dumps({"sequences": named, "families": families}, indent=1))
    else:
        print(named, "", "and with parameters: " + ", ".join(families), sep="\n")
