"""Speed against peers: ``python -m primeattn.bench cpu``, ``step``, ``startup``.

Each benchmark prints a table, writes JSON with the machine and the versions, and says where; nothing is
imported before it is asked for.
"""

from __future__ import annotations

import shlex
import tempfile
from functools import partial
from pathlib import Path

__all__ = ["add_arguments", "main"]


def main(argv=None) -> int:
    """Run one benchmark and return its exit status: 0, 2 for bad input, 130 when interrupted.

    Examples
    --------
    >>> from primeattn import bench
    >>> bench.main(["cpu", "--n", "0"])
    2
    """
    from primeattn.cli.command import Parser, run

    parser = Parser(prog="python -m primeattn.bench", description="Speed against peers.")
    add_arguments(parser)
    return run(parser, argv)


def add_arguments(parser):
    """Give an argparse parser the benchmarks as commands; each sets ``run``, to be called with the result.

    Examples
    --------
    >>> import argparse
    >>> from primeattn import bench
    >>> parser = argparse.ArgumentParser()
    >>> bench.add_arguments(parser)
    >>> parser.parse_args(["cpu", "--quick"]).quick
    True
    """
    commands = parser.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)

    def add(name, run, about):
        command = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        command.add_argument(
            "--out", metavar="DIR", default="figures", help="output folder (default: figures)"
        )
        command.set_defaults(run=partial(_run, run, name, command))
        return command

    cpu = add("cpu", _cpu, "attention on the CPU, forward and backward, over a grid of shapes")
    step = add("step", _step, "a whole training step, against the same model in torch with dense attention")
    add("startup", _startup, "import, first call of a process, and cold compilation")
    for command in (cpu, step):
        several = {"nargs": "+", "metavar": "X"}
        command.add_argument("--quick", action="store_true", help="small sizes: under a minute")
        command.add_argument("--threads", type=int, help="numbers of threads", **several)
        command.add_argument("--n", type=int, help="sequence lengths", **several)
        command.add_argument("--budget", type=float, metavar="X", help="seconds to spend on a shape")
    cpu.add_argument("--heads", type=int, help="numbers of heads", **several)
    cpu.add_argument("--sequences", help="names of the patterns' sequences", **several)


def _run(benchmark, name, command, arguments):
    options = {key: value for key, value in vars(arguments).items() if key not in ("run", "out")}
    given = {"out": arguments.out, **options}
    words = ["python", "-m", "primeattn.bench", name]
    for key, value in given.items():
        if value != command.get_default(key):
            values = [] if value is True else value if isinstance(value, list) else [value]
            words += [f"--{key}", *map(str, values)]
    out = Path(arguments.out)
    _check_writable(out)
    print(*benchmark(options, out, shlex.join(words)), sep="\n")


def _check_writable(folder):
    """Raise OSError now rather than after the benchmark, and make nothing."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    tempfile.TemporaryFile(dir=existing).close()


def _cpu(options, out, command):
    from primeattn.bench import cpu, report

    results = report.write_json(out / "data" / "cpu.json", cpu.run(**options), command)
    report.write_figure(out / "cpu.png", results)
    print(report.tables(results), "", sep="\n")
    return out / "data" / "cpu.json", out / "cpu.png"


def _step(options, out, command):
    from primeattn.bench import report, step

    results = report.write_json(out / "data" / "step.json", step.run(**options), command)
    print(step.text(results), "", sep="\n")
    return (out / "data" / "step.json",)


def _startup(options, out, command):
    from primeattn.bench import report, startup

    results = report.write_json(out / "data" / "startup.json", startup.run(), command)
    print(startup.text(results), "", sep="\n")
    return (out / "data" / "startup.json",)
