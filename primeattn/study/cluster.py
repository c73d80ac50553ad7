"""Runs on a Dask cluster."""

from __future__ import annotations

from primeattn.kernels import get_num_threads, set_num_threads
from primeattn.study.runs import check
from primeattn.study.training import train

__all__ = ["on_cluster"]


def on_cluster(runs, client):
    """Yield the key and the result of each of the runs by key, in the order in which they end.

    Every thread of a worker trains one run at a time, so kernels are set to one thread in its process.
    """
    from distributed import as_completed  # whoever has a client has it

    threads = get_num_threads()
    keys = {client.submit(_train, run, check(run).task, pure=False): key for key, run in runs.items()}
    try:
        for future, result in as_completed(list(keys), with_results=True):
            yield keys[future], result
    finally:
        client.cancel(list(keys))
        set_num_threads(threads)  # the workers may be threads of this process


def _train(run, task):
    set_num_threads(1)
    return train(run)
