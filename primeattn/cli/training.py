"""The command train."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from primeattn._command import add, add_json
from primeattn.kernels import set_num_threads
from primeattn.train import FILES, TrainConfig, report, run

__all__ = ["add_command"]

_ABOUT = {
    "sequence": "sequence of the attention pattern, or none",
    "window": "earlier tokens that every token attends",
    "global_tokens": "leading tokens that every token attends",
    "layers": "blocks of attention and MLP",
    "width": "features of a token",
    "heads": "attention heads",
    "context": "bytes seen at once",
    "batch": "windows of text in a step",
    "steps": "training steps",
    "lr": "largest learning rate",
    "seed": "seed of parameters, batches and sample",
}


def add_command(commands):
    """Add the command to those of an argparse parser."""
    command = add(
        commands,
        "train",
        "train a byte-level language model on real text and compare it with simpler models",
        ["", "--sequence squares --steps 500 --out runs/squares", "--resume"],
        run=_train,
    )
    command.add_argument("--text", metavar="FILE", help="default: the Python standard library's source files")
    for field in fields(TrainConfig):
        name, default = f"--{field.name.replace('_', '-')}", field.default
        about = f"{_ABOUT[field.name]} (default: {default})"
        command.add_argument(name, type=type(default), default=default, metavar="X", help=about)
    about = "output folder (default: runs/train)"
    command.add_argument("--out", metavar="DIR", default="runs/train", help=about)
    about = "continue from the checkpoint in the output folder"
    command.add_argument("--resume", action="store_true", help=about)
    about = "start again, and overwrite the run in the output folder"
    command.add_argument("--force", action="store_true", help=about)
    command.add_argument("--threads", type=int, metavar="X", help="threads of the attention kernels")
    add_json(command)


def _train(arguments):
    if arguments.threads is not None:
        set_num_threads(arguments.threads)
    config = TrainConfig(**{field.name: getattr(arguments, field.name) for field in fields(TrainConfig)})
    options = {name: getattr(arguments, name) for name in ("text", "out", "resume", "force")}
    results = run(config, **options)
    if arguments.json:
        print(json.dumps(results, indent=1))
    else:
        files = [name for name in FILES if (Path(arguments.out) / name).exists()]
        print(report(results), "", f"{arguments.out}: {', '.join(files)}", sep="\n")
