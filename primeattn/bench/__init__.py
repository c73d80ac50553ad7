"""Speed: ``primeattn bench cpu``, ``bound``, ``step``, ``llama``, ``startup``, ``gpu``, ``gpu-check``.

Each benchmark prints a table, writes JSON with the machine and the versions, and prints its path; nothing is
imported before it is needed.
"""

from __future__ import annotations

import argparse
import re
import shlex
from functools import partial
from pathlib import Path

from primeattn.files import check_writable

__all__ = ["add_arguments", "main"]


def main(argv: list[str] | None = None) -> int:
    """Run one benchmark; return its exit status.

    It is 0, 1 for a failed check, 2 for bad input, 130 when interrupted.

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
    primeattn.cli.main : The command line of the package.

    Examples
    --------
    >>> from primeattn import bench
    >>> bench.main(["cpu", "--n", "0"])
    2
    """
    from primeattn._command import Parser, run

    parser = Parser(prog="python -m primeattn.bench", description="Speed against peers.")
    add_arguments(parser)
    return run(parser, argv)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmarks to an argparse parser as commands; each sets ``run``, a function of the arguments.

    ``run`` returns an exit status.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Gets the commands.

    See Also
    --------
    main : Runs one of them.

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
    llama = add("llama", _llama, "a training step of a Llama of transformers, against sdpa")
    bound = add("bound", _bound, "attention on the CPU, over the time of its own inner loops")
    add("startup", _startup, "import, first call of a process, and cold compilation")
    gpu = add("gpu", _gpu, "attention on a GPU, forward and backward, over a grid of shapes")
    check = add("gpu-check", _gpu_check, "whether the kernels are right and quick to launch on this GPU")
    several = {"nargs": "+", "metavar": "X"}
    for command in (cpu, step, llama):
        command.add_argument("--quick", action="store_true", help="small sizes: under a minute")
        command.add_argument("--threads", type=int, help="numbers of threads", **several)
        command.add_argument("--n", type=int, help="sequence lengths", **several)
        command.add_argument("--budget", type=float, metavar="X", help="seconds to spend on a shape")
    bound.add_argument("--n", type=int, help="sequence lengths", **several)
    bound.add_argument("--head-dims", type=int, help="features of a head", **several)
    bound.add_argument("--budget", type=float, metavar="X", help="seconds to spend on a shape")
    gpu.add_argument("--n", type=int, help="sequence lengths", **several)
    gpu.add_argument("--head-dims", type=int, help="features of a head", **several)
    gpu.add_argument("--dtypes", help="bfloat16, float32, float16", **several)
    gpu.add_argument("--budget", type=float, metavar="X", help="seconds to spend on a shape")
    for command in (cpu, bound, gpu):
        command.add_argument("--heads", type=int, help="numbers of heads", **several)
        command.add_argument("--sequences", help="names of the patterns' sequences", **several)
    for command in (gpu, check):
        command.add_argument("--limit", type=float, metavar="X", help="seconds to spend in all")
    check.add_argument("--plan", action="store_true", help="only print what would run, and for how long")
    check.add_argument("stages", nargs="*", metavar="STAGE", help="default: all")


def _run(benchmark, name, command, arguments):
    options = {key: value for key, value in vars(arguments).items() if key not in ("run", "out")}
    given = {"out": arguments.out, **options}
    words = ["python", "-m", "primeattn.bench", name]
    for key, value in given.items():
        if value != command.get_default(key):
            values = [] if value is True else value if isinstance(value, list) else [value]
            words += [*([] if key == "stages" else [f"--{key.replace('_', '-')}"]), *map(str, values)]
    out = Path(arguments.out)
    check_writable(out)
    status, written = benchmark(options, out, shlex.join(words))
    for path in written:
        print(path)
    return status


def _cpu(options, out, command):
    from primeattn.bench import cpu, report

    results = report.write_json(out / "data" / "cpu.json", cpu.run(**options), command)
    print(report.tables(results), "", sep="\n")
    return 0, [out / "data" / "cpu.json", *_figure(report, results, out / "cpu.png")]


def _figure(report, results, path):
    """Draw the picture; return a list of its path, empty if that failed."""
    from primeattn.plot.files import try_save

    return [path] if try_save(lambda: report.figure(results), path) else []


def _step(options, out, command):
    from primeattn.bench import report, step

    results = report.write_json(out / "data" / "step.json", step.run(**options), command)
    print(step.text(results), "", sep="\n")
    return 0, (out / "data" / "step.json",)


def _llama(options, out, command):
    from primeattn.bench import llama, report

    results = report.write_json(out / "data" / "llama.json", llama.run(**options), command)
    print(llama.text(results), "", sep="\n")
    return 0, (out / "data" / "llama.json",)


def _bound(options, out, command):
    from primeattn.bench import bound, report

    results = report.write_json(out / "data" / "bound.json", bound.run(**options), command)
    print(bound.text(results), "", sep="\n")
    return 0, [out / "data" / "bound.json", *_figure(bound, results, out / "bound.png")]


def _gpu(options, out, command):
    from primeattn.kernels.gpu import device

    device.require()
    from primeattn.bench import gpu, gpu_report, report

    def paths(results):
        name = f"gpu_{re.sub('[^a-z0-9]+', '_', results['device']['name'].lower()).strip('_')}"
        return out / "data" / f"{name}.json", out / f"{name}.png"

    def save(results):
        report.write_json(paths(results)[0], results, command)

    results = gpu.run(**options, save=save)
    print(gpu_report.tables(results), "", sep="\n")
    path, picture = paths(results)
    return 0, [path, *_figure(gpu_report, results, picture)]


def _gpu_check(options, out, command):
    from primeattn.bench import gpu_check

    return gpu_check.run(**options, out=out, command=command), ()


def _startup(options, out, command):
    from primeattn.bench import report, startup

    results = report.write_json(out / "data" / "startup.json", startup.run(), command)
    print(startup.text(results), "", sep="\n")
    return 0, (out / "data" / "startup.json",)
