"""Training of a small language model over bytes, and its comparison with simpler models."""

from __future__ import annotations

import json
import math
import platform
import signal
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from primeattn import checkpoint, plot
from primeattn._config import freeze_real, freeze_size
from primeattn.baselines import baselines
from primeattn.checks import as_int
from primeattn.data import Batches, load_corpus
from primeattn.files import check_writable, written_whole
from primeattn.kernels import get_num_threads
from primeattn.language_model import evaluate, generate, make_model
from primeattn.nn import Chain, setup
from primeattn.patterns import Pattern
from primeattn.stepper import Stepper
from primeattn.tree import check as check_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from primeattn.data import Corpus
    from primeattn.typing import FilePath

__all__ = ["FILES", "TrainConfig", "Trainer", "load_run", "report", "run"]

FILES = ("checkpoint.npz", "results.json", "sample.txt", "loss.png", "mask.png")  # what ``run`` writes


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run: on one text, equal options give equal parameters, bit for bit.

    Parameters
    ----------
    sequence : str
        Name of the attention pattern's sequence, or "none" for the window and the global tokens alone.
    window, global_tokens : int
        The rest of the pattern.
    layers, width, heads, context : int
        Size of the model: blocks, features of a token, attention heads, tokens seen at once.
    batch, steps : int
        Windows per step, and steps.
    lr : float
        Largest learning rate.
    seed : int
        Seed of the initial parameters, of the order of the batches and of the sample.

    See Also
    --------
    run : Trains with it.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.train.TrainConfig(sequence="squares").pattern()
    Pattern(squares, window=3, global_tokens=2)
    """

    sequence: str = "primes"
    window: int = 3
    global_tokens: int = 2
    layers: int = 2
    width: int = 128
    heads: int = 4
    context: int = 256
    batch: int = 4
    steps: int = 2500
    lr: float = 4e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.sequence, str):
            raise TypeError(f"TrainConfig: sequence must be a name, got {self.sequence!r}")
        for name in ("layers", "width", "heads", "context", "batch", "steps"):
            freeze_size(self, name)
        for name in ("window", "global_tokens", "seed"):
            freeze_size(self, name, minimum=0)
        freeze_real(self, "lr", 0)

    def pattern(self) -> Pattern:
        """The pattern of every attention layer."""
        sequence = None if self.sequence == "none" else self.sequence
        return Pattern(sequence, window=self.window, global_tokens=self.global_tokens)

    def model(self) -> Chain:
        """The model to be trained."""
        return make_model(
            self.pattern(), layers=self.layers, width=self.width, heads=self.heads, context=self.context
        )


class Trainer(Stepper):
    """A training run on a text between two steps; see `Stepper`.

    Parameters
    ----------
    config : TrainConfig
        The options.
    corpus : Corpus
        The text.

    See Also
    --------
    run : A whole training run.

    Examples
    --------
    >>> import primeattn as pa
    >>> config = pa.train.TrainConfig(layers=1, width=16, heads=2, context=32, batch=2, steps=3)
    >>> trainer = pa.train.Trainer(config, pa.data.load_corpus())
    >>> while trainer.step < config.steps:
    ...     loss = trainer.advance()
    >>> bool(loss < trainer.losses[0])
    True
    """

    def __init__(self, config: TrainConfig, corpus: Corpus) -> None:
        self.config, self.corpus = config, corpus
        self.batches = Batches(corpus.train, config.batch, config.context, config.seed)
        super().__init__(config.model(), self._batch, lr=config.lr, steps=config.steps, seed=config.seed)

    def _batch(self, step):
        self.batches.position = step * self.config.batch
        return next(self.batches)

    def state(self) -> dict:
        """Return everything that changes, and the options, as a tree for a checkpoint."""
        return {
            "options": {**asdict(self.config), "text": self.corpus.sha256},
            "parameters": self.ps,
            "states": self.st,
            "optimizer": self.moments,
            "losses": self.losses,
            "step": self.step,
            "position": self.step * self.config.batch,
            "seconds": self.seconds,
        }

    def save(self, path: FilePath) -> None:
        """Write a checkpoint."""
        checkpoint.save(path, self.state(), self.model)

    def restore(self, path: FilePath) -> None:
        """Continue from a checkpoint with the same options; ValueError names the first that differs."""
        stored, wanted = checkpoint.load(path).get("options"), self.state()["options"]
        if not isinstance(stored, dict):
            raise ValueError(f"resume: {str(path)!r} is no checkpoint of a training run")
        for name in wanted:
            if stored.get(name) != wanted[name]:
                raise ValueError(
                    f"resume: the checkpoint was made with {name} = {stored.get(name)}, got {wanted[name]}; "
                    "--resume (resume=True) takes the same options and text, --force (force=True) starts anew"
                )
        state = checkpoint.load(path, like=self.state(), model=self.model)
        names = {"ps": "parameters", "st": "states", "moments": "optimizer"}
        names |= {name: name for name in ("losses", "step", "seconds")}
        vars(self).update({name: state[stored] for name, stored in names.items()})


def load_run(out: FilePath) -> tuple:
    """Read a run from its folder; return its options, model, parameters and state.

    Parameters
    ----------
    out : str or path-like
        The folder.

    Returns
    -------
    tuple
        TrainConfig, Layer, parameters and state.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no checkpoint, or it is not that of a training run.

    See Also
    --------
    run : Writes the folder.

    Examples
    --------
    >>> import tempfile, primeattn as pa
    >>> options = pa.train.TrainConfig(layers=1, width=16, heads=2, context=32, batch=2, steps=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pa.train.run(options, out=f"{folder}/run")
    ...     config, model, ps, st = pa.train.load_run(f"{folder}/run")
    >>> config == options
    True
    """
    path = Path(out) / "checkpoint.npz"
    if not path.exists():
        raise FileNotFoundError(f"run: expected the folder of a run of primeattn train, got {str(out)!r}")
    options = checkpoint.load(path).get("options")
    names = {field.name for field in fields(TrainConfig)}
    if not isinstance(options, dict) or not names <= options.keys():
        raise ValueError(f"run: {str(path)!r} is no checkpoint of a training run")
    config = TrainConfig(**{name: options[name] for name in names})
    model = config.model()
    ps, _ = setup(np.random.default_rng(0), model)
    state = checkpoint.load(path, model=model)
    check_tree(state["parameters"], ps, "parameters")
    return config, model, state["parameters"], state["states"]


def run(
    config: TrainConfig | None = None,
    *,
    text: FilePath | None = None,
    out: FilePath = "runs/train",
    resume: bool = False,
    force: bool = False,
    save_every: int = 100,
) -> dict:
    """Train, evaluate, and write the folder ``out``; return the results.

    The files are ``checkpoint.npz`` (every ``save_every`` steps, at the end, and on an interrupt),
    ``results.json``, ``sample.txt``, ``loss.png`` and ``mask.png``, each written whole or not at all; a
    picture that cannot be drawn gives a warning. If stderr is a terminal, it shows a progress bar.

    Parameters
    ----------
    config : TrainConfig, optional
        The options; by default those of ``TrainConfig()``.
    text : path, optional
        Train on this file; default the Python standard library (see :mod:`primeattn.data`).
    out : path
        Output folder, created if needed.
    resume : bool
        Continue from ``out/checkpoint.npz``. A run that was killed and resumed gives the same parameters, bit
        for bit, as one that was not.
    force : bool
        Start again in a folder that holds a run, and overwrite it.
    save_every : int
        Steps between checkpoints.

    Returns
    -------
    dict
        As in ``results.json``. It has bits per byte of the same held-out text for the model, for the model
        with the sequence removed from its pattern after training, and for the baselines.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        Bad options, a text too short, a checkpoint of another run, or a folder that holds a run without
        ``resume`` or ``force``; nothing is written then.
    KeyboardInterrupt
        After a checkpoint was written.

    See Also
    --------
    report : The results as text.
    load_run : Reads the folder.

    Examples
    --------
    >>> import os, tempfile, primeattn as pa
    >>> config = pa.train.TrainConfig(layers=1, width=16, heads=2, context=32, batch=2, steps=3)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     results = pa.train.run(config, text=pa.data.__file__, out=out)
    ...     sorted(os.listdir(out))
    ['checkpoint.npz', 'loss.png', 'mask.png', 'results.json', 'sample.txt']
    >>> results["heldout_bytes"] < results["train_bytes"]
    True
    """
    config, out = TrainConfig() if config is None else config, Path(out)
    save_every = as_int("save_every", save_every, minimum=1)
    _check_folder(out, resume, force)
    trainer = Trainer(config, load_corpus(text))
    if resume:
        trainer.restore(out / "checkpoint.npz")
    out.mkdir(parents=True, exist_ok=True)
    if force:
        for name in FILES[1:]:  # the first checkpoint of this run replaces the old one
            (out / name).unlink(missing_ok=True)
    _train(trainer, out / "checkpoint.npz", save_every)
    results = _results(trainer)
    rng = np.random.default_rng(config.seed)
    given = trainer.model, trainer.ps, trainer.st, b"\n", 400
    written = generate(*given, temperature=0.8, rng=rng, context=config.context, slide=True)
    results["sample"] = written.decode("utf-8", errors="replace")
    for name, content in (("sample.txt", written), ("results.json", json.dumps(results, indent=1).encode())):
        with written_whole(out / name) as file:
            file.write(content)
    _write_figures(trainer, results, out)
    return results


def _check_folder(out, resume, force):
    if resume and force:
        raise ValueError("resume: expected --resume (resume=True) or --force (force=True), got both")
    held = [name for name in FILES if (out / name).exists()]
    if held and not resume and not force:
        raise ValueError(
            f"out: {str(out)!r} holds a run ({', '.join(held)}); --resume (resume=True) continues it, "
            "--force (force=True) overwrites it"
        )
    check_writable(out)


def _train(trainer, path, save_every):
    from tqdm import tqdm

    config = trainer.config
    tokens = config.batch * config.context
    sizes = {"total": config.steps * tokens, "initial": trainer.step * tokens}
    with _interrupts() as interrupted, tqdm(**sizes, unit=" tokens", unit_scale=True, disable=None) as bar:
        while trainer.step < config.steps and not interrupted:
            loss = trainer.advance()
            bar.set_postfix_str(f"{loss / math.log(2):.3f} bits/byte", refresh=False)
            bar.update(tokens)
            if trainer.step % save_every == 0:
                trainer.save(path)
    trainer.save(path)
    if interrupted:
        raise KeyboardInterrupt(
            f"{path} holds step {trainer.step} of {config.steps}; resume goes on from there"
        )


@contextmanager
def _interrupts():
    """A list that the first Ctrl-C fills, so that the step is finished; a second one interrupts at once."""
    received, before = [], signal.getsignal(signal.SIGINT)
    main = threading.current_thread() is threading.main_thread()  # only it may set a handler
    if not main or not callable(before):
        yield received
        return

    def note(*_):
        received.append(True)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, before)


def _results(trainer) -> dict:
    config, corpus = trainer.config, trainer.corpus
    without = replace(config, sequence="none").model()
    scores = {
        f"bits_per_byte{name}": evaluate(model, trainer.ps, trainer.st, corpus.heldout, config.context)
        for name, model in {"": trainer.model, "_without_sequence": without}.items()
    }
    seen = config.steps * config.batch * config.context
    return {
        **scores,
        **baselines(corpus.train, corpus.heldout),
        "text": corpus.name,
        "text_sha256": corpus.sha256,
        "train_bytes": corpus.train.size,
        "heldout_bytes": corpus.heldout.size,
        "seen_bytes": seen,
        "parameters": trainer.model.parameter_count,
        "model": repr(trainer.model),
        "config": asdict(config),
        "train_seconds": trainer.seconds,
        "tokens_per_second": seen / trainer.seconds,
        "threads": get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": numba.__version__,
        },
    }


def _write_figures(trainer, results, out):
    names = {
        "held-out": "",
        "order-2 counts": "order2_",
        "order-3 counts": "order3_",
        "gzip": "gzip_",
        "bz2": "bz2_",
    }

    def loss():
        levels = {label: results[f"{name}bits_per_byte"] for label, name in names.items()}
        return plot.loss_curve(trainer.losses / math.log(2), levels=levels).figure

    def mask():
        return plot.mask(trainer.config.pattern(), min(64, trainer.config.context)).figure

    plot.files.try_save(loss, out / "loss.png")
    plot.files.try_save(mask, out / "mask.png")


def report(results: Mapping[str, Any]) -> str:
    """Return the results as readable text.

    Parameters
    ----------
    results : dict
        From ``run``.

    Returns
    -------
    str
        Several lines.

    See Also
    --------
    run : Makes the results.

    Examples
    --------
    >>> import primeattn as pa
    >>> results = {"text": "text", "train_bytes": 900, "heldout_bytes": 100, "parameters": 10}
    >>> results |= {"seen_bytes": 500, "train_seconds": 2.0, "tokens_per_second": 250.0}
    >>> results |= {"model": "Chain", "sample": "abc"}
    >>> print(pa.train.report(results).splitlines()[0])
    text: 900 bytes, 100 held out
    """
    lines = [
        f"{results['text']}: {results['train_bytes']:,} bytes, {results['heldout_bytes']:,} held out",
        f"{results['parameters']:,} parameters, {results['seen_bytes']:,} bytes seen in "
        f"{results['train_seconds']:.0f} s with compilation ({results['tokens_per_second']:,.0f} tokens/s)",
        "",
        results["model"],
        "",
    ]
    lines += [f"{name:32}{value:8.4f}" for name, value in results.items() if "bits_per_byte" in name]
    return "\n".join([*lines, "", "sample:", results["sample"]])
