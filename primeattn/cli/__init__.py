"""``primeattn ...``: parses arguments and delegates, nothing else."""

from __future__ import annotations

from primeattn import __version__, bench
from primeattn._command import Parser, add, run
from primeattn.cli import generation, machine, patterns, studies, training

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status: 0, 1 for a failed check, 2 for bad input, 130 if interrupted.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; by default those of the command line.

    Returns
    -------
    int
        The exit status.

    See Also
    --------
    primeattn.train.run : What ``primeattn train`` calls.

    Examples
    --------
    >>> import primeattn.cli
    >>> primeattn.cli.main(["reach", "primes", "--layers", "1"])
    pattern                                       pairs  hops_max  hops_mean  unreached  within_1
    Pattern(primes, window=3, global_tokens=2)  1255871         3     2.1130          0    0.1379
    0
    >>> primeattn.cli.main(["train", "--text", "/no/such/file"])
    2
    """
    parser = Parser(prog="primeattn", description="Sparse, number-theoretic causal attention.")
    parser.add_argument("--version", action="version", version=f"primeattn {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    patterns.add_commands(commands)
    machine.add_command(commands)
    training.add_command(commands)
    generation.add_command(commands)
    studies.add_command(commands)
    bench.add_arguments(add(commands, "bench", "measure speed against torch and others", ["cpu --quick"]))
    return run(parser, argv)
