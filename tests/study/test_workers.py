import os
import sys
from dataclasses import dataclass

import pytest

from primeattn.patterns import Pattern
from primeattn.study import grid, key, run, train, workers
from primeattn.tasks import Task, pixels


@pytest.mark.slow
def test_processes_yield_what_training_gives(runs):
    by_key = {key(one): one for one in runs}
    assert dict(workers.on_processes(by_key, 2)) == dict(workers.one_by_one(by_key))


@pytest.mark.slow
def test_an_error_in_a_process_is_raised_here(runs):
    task = pixels(width=2, height=76)  # higher than a part of the picture
    gone = dict(runs[0], task=task.to_json())
    with pytest.raises(ValueError, match="pixels: expected a patch of at most 512 × 75, got 2 × 76"):
        list(workers.on_processes({"a": gone}, 1))


@dataclass(frozen=True, repr=False)
class coins(Task):
    length: int = 16
    vocab, chance = 2, 0.5

    def draw(self, rng, batch):
        tokens = rng.integers(2, size=(batch, self.length))
        return tokens, tokens


def test_tasks_that_other_processes_cannot_have(monkeypatch, tmp_path):
    @dataclass(frozen=True, repr=False)
    class local(coins):
        pass

    def train_in_processes(task):
        return run(grid([task], {"a": Pattern("squares")}, seeds=2), out=tmp_path, jobs=2)

    with pytest.raises(ValueError, match=r"got local, which is defined in a function; .* or take jobs=1"):
        train_in_processes(local())
    monkeypatch.setattr(coins, "__module__", "__main__")
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)  # as in a notebook
    with pytest.raises(
        ValueError, match=r"got coins, which is defined at a prompt or in a notebook; .* jobs=1"
    ):
        train_in_processes(coins())


def test_a_process_that_dies_is_noticed(runs, monkeypatch):
    def dies(line, threads):
        line.recv()
        os._exit(7)

    context = workers.multiprocessing.get_context("fork")
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda method: context)
    monkeypatch.setattr(workers, "_serve", dies)
    with pytest.raises(RuntimeError, match=r"a process that was to train run k ended with code 7$"):
        list(workers.on_processes({"k": runs[0]}, 1))


@pytest.mark.slow
def test_results_that_nobody_takes_end_the_processes(runs):
    results = workers.on_processes({key(one): one for one in runs}, 1)
    name, result = next(results)
    assert result == train(runs[0]) and name == key(runs[0])
    results.close()
    assert not workers.multiprocessing.active_children()
