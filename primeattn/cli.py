"""``primeattn ...``: parses and delegates, nothing else."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields

from primeattn import __version__
from primeattn.bench import add_arguments as add_benchmarks
from primeattn.kernels import set_num_threads
from primeattn.train import TrainConfig, report, run

__all__ = ["main"]


def main(argv=None) -> int:
    """Run one command and return its exit status: 0, 1 for a failed check, 2 for bad input, 130 when
    interrupted.

    Examples
    --------
    >>> import primeattn.cli
    >>> primeattn.cli.main(["train", "--text", "/no/such/file"])
    2
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"primeattn: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"primeattn: interrupted{f'; {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="primeattn", description="Sparse, number-theoretic causal attention."
    )
    parser.add_argument("--version", action="version", version=f"primeattn {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_train(commands)
    about = "measure speed against torch and others"
    add_benchmarks(commands.add_parser("bench", help=about, description=f"{about[0].upper()}{about[1:]}."))
    return parser


_TRAIN = {
    "sequence": 'sequence of the attention pattern, or "none"',
    "window": "earlier tokens that every token attends",
    "global_tokens": "leading tokens that every token attends",
    "layers": "blocks of attention and MLP",
    "width": "features of a token",
    "heads": "attention heads",
    "context": "bytes seen at once",
    "batch": "windows of text in a step",
    "steps": "training steps",
    "lr": "largest learning rate",
    "seed": "of parameters, batches and sample",
}


def _add_train(commands):
    about = "train a byte-level language model on real text and compare it with simpler models"
    command = commands.add_parser("train", help=about, description=f"{about[0].upper()}{about[1:]}.")
    command.add_argument("--text", metavar="FILE", help="default: the Python standard library's source files")
    for field in fields(TrainConfig):
        name, default = f"--{field.name.replace('_', '-')}", field.default
        about = f"{_TRAIN[field.name]} (default: {default})"
        command.add_argument(name, type=type(default), default=default, metavar="X", help=about)
    command.add_argument(
        "--out", metavar="DIR", default="runs/train", help="output folder (default: runs/train)"
    )
    command.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in the output folder"
    )
    command.add_argument("--threads", type=int, metavar="X", help="threads of the attention kernels")
    command.set_defaults(run=_train)


def _train(arguments):
    if arguments.threads is not None:
        set_num_threads(arguments.threads)
    config = TrainConfig(**{field.name: getattr(arguments, field.name) for field in fields(TrainConfig)})
    results = run(config, text=arguments.text, out=arguments.out, resume=arguments.resume)
    print(report(results))
