"""What all commands share: how they are declared, and how they end."""

from __future__ import annotations

import _thread
import argparse
import os
import signal
import sys
import threading
import warnings
from contextlib import contextmanager, suppress

__all__ = ["Parser", "add", "add_json", "run"]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises ValueError and takes no abbreviations. So do its commands."""

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

    The status is what ``run`` returns (0 for None), 2 after an error, with one line on stderr, or 130 when
    interrupted. Characters that the console cannot show are escaped; closed streams are not written to.
    """
    if argv is None:  # the process is ours
        _take_interrupts()
    sys.stdout, sys.stderr = (_able(stream) for stream in (sys.stdout, sys.stderr))
    with _short_warnings(parser.prog):
        try:
            try:
                arguments = parser.parse_args(argv)
                return arguments.run(arguments) or 0
            finally:
                _flush(sys.stdout)
        except BrokenPipeError:  # the reader, such as head, has seen enough
            return 0
        except (ValueError, TypeError, OSError, RuntimeError, MemoryError) as error:
            _say(f"{parser.prog}: error: {' '.join(str(error).split()) or type(error).__name__}")
            return 2
        except KeyboardInterrupt as interrupt:
            _say(f"{parser.prog}: interrupted{f'; {interrupt}' if str(interrupt) else ''}")
            return 130


def _take_interrupts():
    """Let Ctrl-C interrupt only once: more would cut short what is saved and printed.

    An exception ends within a function that C calls, such as those that a compiler calls. Then it is raised
    again.
    """

    def interrupt(number, frame):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    def ignored(unraisable):
        if unraisable.exc_type is not KeyboardInterrupt:
            before(unraisable)
            return
        signal.signal(signal.SIGINT, interrupt)
        threading.Timer(0.02, interrupt_main).start()  # not here, where it would be ignored again

    def interrupt_main():
        if hasattr(signal, "pthread_kill"):  # which also ends a wait
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        else:
            _thread.interrupt_main()

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job may be set to ignore Ctrl-C
        signal.signal(signal.SIGINT, interrupt)
        before, sys.unraisablehook = sys.unraisablehook, ignored


def _able(stream):
    """Return ``stream``, which now escapes what it cannot encode, or one that discards all for None."""
    if stream is None:  # the parent process closed it
        return open(os.devnull, "w", encoding="utf-8")
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def _flush(stream):
    try:
        stream.flush()
    except OSError:  # at exit the interpreter would try again, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise


def _say(line):
    with suppress(OSError):
        try:
            print(line, file=sys.stderr)
        finally:
            _flush(sys.stderr)


@contextmanager
def _short_warnings(prog):
    """Show warnings as one line each, without the place in the source."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{prog}: warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before
