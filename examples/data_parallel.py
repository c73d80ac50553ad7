"""Train on batches whose shards are computed by two worker processes, bit for bit as one process would.

python examples/data_parallel.py

Needs pip install 'primeattn[dask]'.
"""

from functools import reduce
from operator import add
from typing import Any

import dask
import numpy as np
from distributed import Client, LocalCluster

import primeattn as pa
from primeattn.compiled.blas import one_blas_thread
from primeattn.typing import Array, Params, States

CONFIG = pa.train.TrainConfig(layers=1, width=64, heads=2, context=128, batch=8, steps=20)
MODEL, SHARDS = CONFIG.model(), 4


def gradient(ps: Params, st: States, tokens: Array, targets: Array) -> tuple[float, Params]:
    """Loss and gradient of a shard."""
    with one_blas_thread():  # as many as in any other process, for the same bits
        logits, _, pullback = MODEL.pullback(tokens, ps, st)
        loss, dlogits = pa.losses.cross_entropy(logits, targets)
        return loss, pullback(dlogits)[1]


def mean(shards: list[tuple[float, Params]]) -> tuple[float, Params]:
    """The loss and gradient of the batch are the means of those of equal shards, summed in their order."""
    losses, grads = zip(*shards, strict=True)
    return sum(losses) / len(losses), pa.tree.map(lambda *leaves: reduce(add, leaves) / len(leaves), *grads)


def batch_gradient(
    ps: Params, st: States, tokens: Array, targets: Array, shards: int, scheduler: Any = None
) -> tuple[float, Params]:
    """Loss and gradient of a batch; where there is a client, its workers compute."""
    at_workers = dask.delayed((ps, st))  # sent once a step
    rows = zip(np.split(tokens, shards), np.split(targets, shards), strict=True)
    tasks = [dask.delayed(gradient)(at_workers[0], at_workers[1], *shard) for shard in rows]
    return dask.delayed(mean)(tasks).compute(scheduler=scheduler)


def train(corpus: pa.data.Corpus, scheduler: Any = None) -> tuple[list[float], Params]:
    """Losses of all steps, and the parameters after them."""
    batches = pa.data.Batches(corpus.train, CONFIG.batch, CONFIG.context, CONFIG.seed)
    ps, st = pa.setup(np.random.default_rng(CONFIG.seed), MODEL)
    optimizer = pa.optim.AdamW(CONFIG.lr)
    moments, losses = optimizer.init(ps), []
    for _ in range(CONFIG.steps):
        loss, grads = batch_gradient(ps, st, *next(batches), SHARDS, scheduler)
        grads, _ = pa.optim.clip_by_global_norm(grads, 1.0)
        ps, moments = optimizer.update(ps, grads, moments)
        losses.append(loss)
    return losses, ps


def main() -> None:
    corpus = pa.data.load_corpus()
    losses, ps = train(corpus, "sync")
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        others, other_ps = train(corpus)
    assert losses == others
    pa.tree.map(np.testing.assert_array_equal, ps, other_ps)
    print(f"loss {losses[0]:.3f} to {losses[-1]:.3f}: one process and two workers have the same bits")

    ps, st = pa.setup(np.random.default_rng(CONFIG.seed), MODEL)
    batch = next(pa.data.Batches(corpus.train, CONFIG.batch, CONFIG.context, CONFIG.seed))
    (_, whole), (_, shards) = (batch_gradient(ps, st, *batch, count, "sync") for count in (1, SHARDS))
    leaves = zip(pa.tree.flatten(whole).values(), pa.tree.flatten(shards).values(), strict=True)
    error = max(np.abs(a - b).max() / np.abs(a).max() for a, b in leaves)
    print(f"gradient of a batch as a whole: relative difference {error:.0e}")
    assert error < 1e-5


if __name__ == "__main__":  # workers import this file
    main()
