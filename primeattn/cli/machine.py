"""The command ``info``: what the library runs on, and which GPU kernel a pattern would use."""

from __future__ import annotations

import json

from primeattn._command import add, add_json
from primeattn.patterns import Pattern

__all__ = ["add_command"]

_OF_PATTERN = {"n": 16384, "window": 3, "global_tokens": 2, "head_dim": 64, "dtype": "bfloat16"}


def add_command(commands):
    """Add the command to those of an argparse parser."""
    command = add(
        commands,
        "info",
        "show versions, processor, threads, compiled code and GPU; or explain the choice of a kernel",
        ["", "--json", "--pattern primes -n 65536", "--pattern squares --head-dim 128 --dtype float16"],
        run=_info,
    )
    about = "show instead which GPU kernel is chosen for this sequence (as for mask, or none), and why"
    command.add_argument("--pattern", metavar="SEQUENCE", help=about)
    for name, about in (
        ("n", "number of tokens"),
        ("window", "earlier tokens that every token attends"),
        ("global_tokens", "leading tokens that every token attends"),
        ("head_dim", "features of a head"),
        ("dtype", "of the arrays"),
    ):
        option = "-n" if name == "n" else f"--{name.replace('_', '-')}"
        about = f"with --pattern: {about} (default: {_OF_PATTERN[name]})"
        command.add_argument(option, dest=name, type=type(_OF_PATTERN[name]), metavar="X", help=about)
    add_json(command)


def _info(arguments):
    from primeattn import info

    given = {name: value for name in _OF_PATTERN if (value := getattr(arguments, name)) is not None}
    if arguments.pattern is not None:
        return _explain(arguments, **_OF_PATTERN | given)
    if given:
        raise ValueError(f"{next(iter(given))}: expected with --pattern only")
    sections = info.collect()
    print(json.dumps(sections, indent=1) if arguments.json else info.report(sections))


def _explain(arguments, n, window, global_tokens, head_dim, dtype):
    from primeattn.kernels import explain_kernel

    sequence = None if arguments.pattern == "none" else arguments.pattern
    pattern = Pattern(sequence, window, global_tokens)
    choice = explain_kernel(pattern, n, head_dim, dtype)
    asked = {"pattern": repr(pattern), "n": n, "head_dim": head_dim, "dtype": dtype}
    if arguments.json:
        print(json.dumps(asked | choice._asdict(), indent=1))
    else:
        print(", ".join(f"{name} {value}" for name, value in asked.items()), choice, sep="\n")
