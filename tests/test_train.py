import copy
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest

from primeattn import checkpoint, train
from primeattn.baselines import CountModel
from primeattn.bench.step import allocation
from primeattn.data import Corpus, text_corpus
from primeattn.language_model import evaluate, make_model
from primeattn.losses import cross_entropy
from primeattn.nn import setup
from primeattn.optim import AdamW, clip_by_global_norm
from primeattn.patterns import Pattern
from primeattn.train import TrainConfig, Trainer, run
from primeattn.tree import flatten
from primeattn.workspace import Workspace

TINY = TrainConfig(layers=1, width=16, heads=2, context=24, batch=3, steps=8)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"".join(b"line %d of %d\n" % (i, i * i % 89) for i in range(300)))
    return path


def test_config_errors():
    for name in ("layers", "width", "heads", "context", "batch", "steps"):
        with pytest.raises(ValueError, match=f"TrainConfig: {name} must be at least 1, got 0"):
            replace(TINY, **{name: 0})
        with pytest.raises(TypeError, match=f"TrainConfig: {name} must be an integer, got True"):
            replace(TINY, **{name: True})
    for name in ("window", "global_tokens", "seed"):
        with pytest.raises(ValueError, match=f"TrainConfig: {name} must be at least 0, got -1"):
            replace(TINY, **{name: -1})
    for lr in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"TrainConfig: lr must be in \[0, inf\)"):
            replace(TINY, lr=lr)
    with pytest.raises(TypeError, match="TrainConfig: sequence must be a name, got None"):
        replace(TINY, sequence=None)
    assert type(replace(TINY, width=np.int64(8)).width) is int


def test_without_a_sequence_the_parameters_have_the_same_structure(rng):
    with_primes, without = TINY.model(), replace(TINY, sequence="none").model()
    assert TINY.pattern().sequence is not None and replace(TINY, sequence="none").pattern().sequence is None
    a, b = (flatten(setup(rng, model)[0]) for model in (with_primes, without))
    assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}


def test_training_learns_and_repeats(text):
    corpus, config = text_corpus(text), replace(TINY, steps=40, lr=1e-2)
    one, two, other = (
        Trainer(config, corpus),
        Trainer(config, corpus),
        Trainer(replace(config, seed=1), corpus),
    )
    for trainer in (one, two, other):
        while trainer.step < config.steps:
            trainer.advance()
    assert one.losses[-5:].mean() < 0.6 * one.losses[0] and one.losses[0] == pytest.approx(
        math.log(256), rel=0.2
    )
    np.testing.assert_array_equal(one.losses, two.losses)
    assert not np.array_equal(one.losses, other.losses)
    score = evaluate(one.model, one.ps, one.st, corpus.heldout, config.context)
    assert score < 0.6 * 8


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_a_warm_step_allocates_no_array(rng, dtype):
    model = make_model(Pattern("squares", window=3), layers=1, width=32, heads=2, context=4096)
    (ps, st), optimizer, ws = setup(rng, model, dtype), AdamW(1e-3), Workspace()
    moments = optimizer.init(ps)
    tokens, targets = rng.integers(256, size=(2, 8, 4096), dtype=np.uint8)

    def step():
        ws.reset()
        logits, _, pullback = model.pullback(tokens, ps, st, workspace=ws)
        _, dlogits = cross_entropy(logits, targets, workspace=ws)
        _, grads = pullback(dlogits)
        clip_by_global_norm(grads, 1.0, out=grads)
        optimizer.update(ps, grads, moments, out=(ps, moments))

    assert allocation(step) < 8 * 4096 * 4  # one number per token, 128 KB: buffers of NumPy have 64


def test_a_text_shorter_than_the_context():
    short = Corpus("short", np.zeros(24, np.uint8), np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match="text: expected more than context = 24 bytes for training, got 24"):
        Trainer(TINY, short)


def test_a_loss_that_is_not_finite_stops_the_run(text):
    trainer = Trainer(replace(TINY, lr=1e30), text_corpus(text))
    with pytest.raises(RuntimeError, match=r"training: loss nan .* lower lr"), np.errstate(all="ignore"):
        for _ in range(TINY.steps):
            trainer.advance()


def equal(a, b):
    a, b = flatten(a), flatten(b)
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_restored_trainer_goes_on_bit_for_bit(text, tmp_path):
    corpus = text_corpus(text)
    whole, half = Trainer(TINY, corpus), Trainer(TINY, corpus)
    for _ in range(3):
        half.advance()
    half.save(tmp_path / "a")
    rest = Trainer(TINY, corpus)
    rest.restore(tmp_path / "a")
    for trainer, steps in ((whole, 8), (half, 5), (rest, 5)):
        for _ in range(steps):
            trainer.advance()
    for trainer in (half, rest):
        assert equal(whole.ps, trainer.ps) and equal(whole.moments, trainer.moments)
        assert trainer.step == 8 and trainer.batches.position == 24
        np.testing.assert_array_equal(whole.losses, trainer.losses)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
def test_a_copied_trainer_goes_on_bit_for_bit(text, again):
    trainer = Trainer(TINY, text_corpus(text))
    for _ in range(3):
        trainer.advance()
    other = again(trainer)
    for one in (trainer, other):
        for _ in range(3):
            one.advance()
    assert equal(trainer.ps, other.ps) and equal(trainer.moments, other.moments)
    assert not np.shares_memory(trainer.ps["layer_0"]["weight"], other.ps["layer_0"]["weight"])


@pytest.mark.slow
def test_a_killed_run_resumed_equals_one_that_was_not(text, tmp_path):
    script = """
import os, signal, sys
from primeattn.train import Trainer, TrainConfig, run

advance = Trainer.advance

def killed(trainer):
    if trainer.step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(trainer)

Trainer.advance = killed
run(TrainConfig(**eval(sys.argv[1])), text=sys.argv[2], out=sys.argv[3], save_every=4)
"""
    path = tmp_path / "killed" / "checkpoint.npz"
    command = [sys.executable, "-c", script, repr(asdict(TINY)), text, path.parent]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert checkpoint.load(path)["step"] == 4  # steps 5 and 6 are lost, and taken again
    resumed = run(TINY, text=text, out=path.parent, resume=True)
    whole = run(TINY, text=text, out=tmp_path / "whole")
    a, b = checkpoint.load(path), checkpoint.load(tmp_path / "whole" / "checkpoint.npz")
    assert a["step"] == b["step"] == 8 and equal(a["parameters"], b["parameters"])
    assert resumed["bits_per_byte"] == whole["bits_per_byte"] and resumed["sample"] == whole["sample"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"width": 32}, "made with width = 16, got 32"),
        ({"steps": 9}, "made with steps = 8, got 9"),
        ({"sequence": "squares"}, "made with sequence = primes, got squares"),
        ({"lr": 1e-4}, r"made with lr = 0\.004, got 0\.0001"),
    ],
)
def test_resuming_with_other_options_is_refused(text, tmp_path, change, message):
    Trainer(TINY, text_corpus(text)).save(tmp_path / "checkpoint.npz")
    before = (tmp_path / "checkpoint.npz").read_bytes()
    with pytest.raises(ValueError, match=f"resume: the checkpoint was {message}"):
        run(replace(TINY, **change), text=text, out=tmp_path, resume=True)
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.npz", "text"]


def test_resuming_from_something_else_is_refused(text, tmp_path):
    def resume():
        run(TINY, text=text, out=tmp_path, resume=True)

    path = tmp_path / "checkpoint.npz"
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.npz"):
        resume()
    checkpoint.save(path, {"weight": np.zeros(3)})
    with pytest.raises(ValueError, match="is no checkpoint of a training run"):
        resume()
    trainer = Trainer(TINY, text_corpus(text))
    trainer.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        resume()
    state = trainer.state()
    del state["parameters"]["layer_0"]
    checkpoint.save(path, state, trainer.model)
    with pytest.raises(ValueError, match="of another model: expected 'parameters/layer_0/weight'"):
        resume()
    text.write_bytes(text.read_bytes() + b"!")
    Trainer(TINY, trainer.corpus).save(path)
    with pytest.raises(ValueError, match="resume: the checkpoint was made with text = "):
        resume()


@pytest.mark.parametrize(
    "content, change, error",
    [
        (b"", {}, "text: expected at least 10 bytes .* got an empty file"),
        (b"abc" * 8, {}, "text: expected more than context = 24 bytes"),
        (b"abc" * 99, {"sequence": "prymes"}, "prymes"),
        (b"abc" * 99, {"heads": 3}, "heads must divide dims"),
        (b"abc" * 99, {"window": -1}, "window"),
    ],
)
def test_bad_input_writes_nothing(tmp_path, content, change, error):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(ValueError, match=error):
        run(replace(TINY, **change), text=tmp_path / "text", out=tmp_path / "out")
    assert os.listdir(tmp_path) == ["text"]


def test_run_writes_its_results(text, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    results = run(TINY, text=text, out=str(out))
    assert capsys.readouterr() == ("", "")  # the bar is for terminals
    names = ["checkpoint.npz", "loss.png", "mask.png", "results.json", "sample.txt"]
    assert sorted(os.listdir(out)) == names
    assert json.loads((out / "results.json").read_text()) == results
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in names[1:3])
    corpus, trainer = text_corpus(text), Trainer(TINY, text_corpus(text))
    trainer.restore(out / "checkpoint.npz")
    parts = trainer.model, trainer.ps, trainer.st
    assert results["bits_per_byte"] == evaluate(*parts, corpus.heldout, TINY.context)
    assert results["order2_bits_per_byte"] == pytest.approx(
        CountModel(corpus.train, 2).bits(corpus.heldout).mean()
    )
    assert 0 < abs(results["bits_per_byte"] - results["bits_per_byte_without_sequence"]) < 1
    assert {"order3_bits_per_byte", "gzip_bits_per_byte", "bz2_bits_per_byte"} < results.keys()
    assert results["config"] == asdict(TINY) and results["text_sha256"] == corpus.sha256
    assert results["seen_bytes"] == 8 * 3 * 24 and results["heldout_bytes"] == corpus.heldout.size
    assert (out / "sample.txt").read_bytes().decode("utf-8", "replace") == results["sample"]
    report = train.report(results)
    assert (
        f"bits_per_byte                   {results['bits_per_byte']:8.4f}" in report
        and "previous=1" in report
    )


def test_without_a_sequence_nothing_is_taken_out(text, tmp_path):
    results = run(replace(TINY, sequence="none"), text=text, out=tmp_path / "out")
    assert results["bits_per_byte"] == results["bits_per_byte_without_sequence"]


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_ends_with_a_checkpoint_of_whole_steps(text, tmp_path, monkeypatch):
    advance = Trainer.advance

    def interrupted(trainer):
        if trainer.step == 4:
            signal.raise_signal(signal.SIGINT)
        return advance(trainer)

    monkeypatch.setattr(Trainer, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="holds step 5 of 8"):
        run(TINY, text=text, out=tmp_path / "out")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    resumed = run(TINY, text=text, out=tmp_path / "out", resume=True)
    whole = run(TINY, text=text, out=tmp_path / "whole")
    assert resumed["bits_per_byte"] == whole["bits_per_byte"]


def test_a_run_in_another_thread(text, tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(TINY, text=text, out=tmp_path / "out")))
    thread.start()
    thread.join()
    assert results and results[0]["bits_per_byte"] > 0
