"""Processes of :mod:`primeattn.bench.gpu_check`: run side by side, ended in time, and read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress

__all__ = ["ended_by_signals", "not_run", "read", "run_together"]

ENDING = 3  # seconds from the kill of a process to the end of its step: the driver has to free its memory
POLL = 0.05


def run_together(processes, at_once, left, note):
    """Run processes side by side; call ``note(process, entry)`` as each ends.

    Parameters
    ----------
    processes : list of Process
    at_once : int
        Most of them that run at once.
    left : callable
        Seconds until all must have ended.
    note : callable
        An entry is a dict: ``findings``, the exit ``status`` (None if it did not run to its end),
        ``seconds``, ``tail``, the end of what else was printed, and, if it did not start, ``skipped``, why.
    """
    waiting, running = deque(processes), []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                process = waiting.popleft()
                if left() <= ENDING:
                    note(process, not_run("no time was left"))
                    continue
                try:
                    running.append(_Running(process, left() - ENDING))
                except OSError as error:
                    note(process, not_run(f"it did not start: {error}"))
            for one in [one for one in running if one.has_ended(left())]:
                running.remove(one)
                note(one.process, one.entry())
            if running:
                time.sleep(POLL)
    finally:  # interrupted
        for one in running:
            one.kill()
        for one in running:
            with suppress(subprocess.TimeoutExpired):
                one.started.wait(ENDING)


class _Running:
    def __init__(self, process, seconds):
        self.process, self.killed, self.start = process, False, time.perf_counter()
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        # A session of its own, so that a tool is killed together with the stage it runs.
        self.started = subprocess.Popen(
            process.command(seconds), stdout=self.file, stderr=subprocess.STDOUT, start_new_session=True
        )

    def has_ended(self, left):
        if self.started.poll() is not None:
            self.kill()  # what it has started and left
            return True
        if left <= ENDING and not self.killed:
            self.killed = True
            self.kill()
        return left <= POLL  # a process that the driver holds cannot be waited for

    def kill(self):
        with suppress(OSError):  # nothing is left of it
            if hasattr(os, "killpg"):
                os.killpg(self.started.pid, signal.SIGKILL)
            else:  # on Windows
                self.started.kill()

    def entry(self):
        with self.file:
            self.file.seek(0)
            findings, lines = read(self.file.read().decode(errors="replace"))
        if self.started.returncode is None:
            lines.append("It was killed and has not ended: the driver may be stuck.")
        return {
            "findings": findings,
            "status": None if self.killed else self.started.returncode,
            "seconds": time.perf_counter() - self.start,
            "tail": "\n".join(lines[-40:]),
        }


def not_run(reason) -> dict:
    """The entry of a process that was not started."""
    return {"findings": [], "status": None, "seconds": 0.0, "tail": "", "skipped": reason}


def read(output) -> tuple[list, list]:
    """Findings in what a process has printed, and all other lines."""
    findings, lines, decoder = [], [], json.JSONDecoder()
    for line in output.splitlines():
        at = line.find('{"check"')  # a tool may have written on the same line
        if at >= 0:
            with suppress(ValueError):  # cut off
                found, length = decoder.raw_decode(line[at:])
                findings.append(found)
                line = line[:at] + line[at + length :]
        if line:
            lines.append(line)
    return findings, lines


@contextmanager
def ended_by_signals():
    """Let SIGTERM and SIGHUP interrupt like Ctrl-C: processes in sessions of their own would stay alive."""

    def interrupt(number, frame):
        raise KeyboardInterrupt(f"ended by {signal.Signals(number).name}")

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
