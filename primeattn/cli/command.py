"""What all commands share: how they are declared, and how they end."""

from __future__ import annotations

import argparse
import os
import sys

__all__ = ["Parser", "add", "add_json", "run"]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ValueError, and takes no abbreviations. Its commands are like it."""

    def __init__(self, **options):
        formatter = argparse.RawDescriptionHelpFormatter  # examples keep their lines
        super().__init__(allow_abbrev=False, formatter_class=formatter, **options)

    def error(self, message):
        raise ValueError(f"{message}; see {self.prog} --help")


def add(commands, name, about, examples, run=None) -> Parser:
    """Add a command that calls ``run(arguments)``, with ``examples`` of its arguments in its help."""
    command = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    lines = [f"  {command.prog} {words}".rstrip() for words in examples]
    command.epilog = "\n".join(["examples:", *lines])
    if run is not None:
        command.set_defaults(run=run)
    return command


def add_json(command):
    """Give a command the option ``--json``."""
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")


def run(parser, argv) -> int:
    """Parse ``argv``, call ``arguments.run(arguments)``, and return the exit status.

    What ``run`` returns, 0 for None; 2 with one line on stderr for whatever was wrong; 130 when interrupted.
    """
    try:
        arguments = parser.parse_args(argv)
        status = arguments.run(arguments) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"{parser.prog}: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"{parser.prog}: interrupted{f'; {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        return 130
    return status
