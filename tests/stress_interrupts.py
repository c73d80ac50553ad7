"""Interrupts at random moments: no wrong result, no hang, no crash.

    python tests/stress_interrupts.py --rounds 20000 --seed 0 --threads 2 4 16

Attention forward, its backward in one pass and in two, a Dense layer with its pullback, a whole training step
and a Trainer are called again and again, and interrupted: by SIGALRM with a handler that raises, by SIGINT,
often by a second one right after the first. After each the same call has to give the right bits, and NumPy's
BLAS has to have its number of threads. With ``--fail K`` the K-th start of a thread and all later ones fail,
with ``--fail-once K`` that one alone. The calls run in a process of their own, which is watched.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import numpy as np

SILENCE = 120.0  # seconds without news from the process after which it counts as hanging
LONGEST, SHORTEST = 4e-3, 1e-6  # seconds until a signal


class Struck(Exception):
    """What the handler of SIGALRM raises."""


class Signals:
    """Sends the signals, and counts them as they are received, where they raise."""

    def __init__(self):
        self.received, self._after = 0, []
        self._orders = queue.SimpleQueue()
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.signal(signal.SIGINT, self._on_interrupt)
        threading.Thread(target=self._send, daemon=True).start()

    def _on_alarm(self, *_):
        self.received += 1
        if self._after:
            signal.setitimer(signal.ITIMER_REAL, self._after.pop())
        raise Struck

    def _on_interrupt(self, *_):
        self.received += 1
        raise KeyboardInterrupt

    def _send(self):
        while True:
            for i, delay in enumerate(self._orders.get()):
                while self.received < i:  # two that wait to be received are one
                    time.sleep(SHORTEST)
                time.sleep(delay)
                os.kill(os.getpid(), signal.SIGINT)

    def strike(self, call, delays, by_keyboard):
        """Repeat ``call`` until it was interrupted, after each of at most two ``delays``."""
        self.received, self._after = 0, list(delays[1:])
        try:
            try:
                if by_keyboard:
                    self._orders.put(delays)
                else:
                    signal.setitimer(signal.ITIMER_REAL, delays[0])
                while self.received < len(delays):
                    call()
            except (Struck, KeyboardInterrupt):
                while self.received < len(delays):
                    call()
        except (Struck, KeyboardInterrupt):
            pass


def attention(rng, heads, n, dim=64):
    """Forward, and backward of the same problem."""
    import primeattn as pa

    q, k, v, dout = rng.standard_normal((4, 1, heads, n, dim), dtype=np.float32)
    pattern = pa.Pattern("primes", window=3, global_tokens=2)
    out, lse = pa.attention(q, k, v, pattern)
    workspace = pa.Workspace()

    def forward():
        return pa.attention(q, k, v, pattern, workspace=workspace)

    def backward():
        grads = (np.full_like(q, np.nan) for _ in range(3))
        return pa.sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, pattern)

    return forward, backward


def dense(rng):
    import primeattn as pa

    layer = pa.Dense(128, 384)
    ps, st = pa.setup(rng, layer)
    x, dy = (rng.standard_normal((2, 1000, size), dtype=np.float32) for size in (128, 384))

    def call():
        y, _, pullback = layer.pullback(x, ps, st)
        dx, dps = pullback(dy)
        return y, dx, dps["weight"], dps["bias"]

    return call


def training_step(rng):
    import primeattn as pa

    block = pa.SkipConnection(pa.Chain(pa.LayerNorm(64), pa.PrimeSelfAttention(64, heads=4)))
    mlp = pa.SkipConnection(pa.Chain(pa.Dense(64, 256), pa.gelu, pa.Dense(256, 64)))
    model = pa.Chain(pa.Embedding(256, 64), block, mlp, pa.LayerNorm(64), pa.Dense(64, 256))
    ps, st = pa.setup(rng, model)
    tokens = rng.integers(256, size=(2, 512))
    optimizer, workspace = pa.optim.AdamW(1e-3), pa.Workspace()
    state = optimizer.init(ps)

    def call():
        workspace.reset()
        logits, _, pullback = model.pullback(tokens, ps, st, workspace=workspace)
        loss, dlogits = pa.losses.cross_entropy(logits, tokens, workspace=workspace)
        _, grads = pullback(dlogits)
        new, _ = optimizer.update(ps, grads, state)
        return np.array(loss), *pa.tree.flatten(grads).values(), *pa.tree.flatten(new).values()

    return call


def training_run():
    """Steps of a Trainer: after an interrupt it is between two of them, where it would be without."""
    import primeattn as pa

    config = pa.train.TrainConfig(layers=1, width=32, heads=2, context=256, batch=2, steps=40)
    corpus = pa.data.text_corpus(pa.data.__file__)
    undisturbed = pa.train.Trainer(config, corpus)
    states = []
    for _ in range(config.steps):
        states.append([a.copy() for a in _state(undisturbed)])
        undisturbed.advance()
    trainer = [pa.train.Trainer(config, corpus)]

    def call():
        if trainer[0].step >= config.steps - 1:
            trainer[0] = pa.train.Trainer(config, corpus)
        trainer[0].advance()

    def check():
        return same(_state(trainer[0]), states[trainer[0].step])

    return call, check


def _state(trainer):
    from primeattn import tree

    return tree.flatten({"parameters": trainer.ps, "moments": trainer.moments}).values()


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def calls(rng):
    """Calls by name, each with a check that is made after it was interrupted."""
    found = {}
    for name, heads in (("one pass", 8), ("two passes", 4)):
        for n in (512, 901, 1500):
            forward, backward = attention(rng, heads, n)
            found[f"forward, {heads} heads of {n}"] = forward
            found[f"backward in {name}, n = {n}"] = backward
    found |= {"dense": dense(rng), "training step": training_step(rng)}
    checked = {}
    for name, call in found.items():
        expected = [a.copy() for a in call()]
        checked[name] = call, lambda call=call, expected=expected: same(call(), expected)
    return {**checked, "trainer": training_run()}


def fail_starts(first, once):
    """Let the start of a thread fail: the one of number ``first``, and all later ones unless ``once``."""
    import _thread

    start, count = _thread.start_new_thread, [0]

    def failing(*args):
        count[0] += 1
        if count[0] == first or (count[0] > first and not once):
            raise RuntimeError("can't start new thread")
        return start(*args)

    _thread.start_new_thread = threading._start_new_thread = failing


def strike_all(rounds, seed, threads, fail, fail_once):
    """Yield (interrupts so far, what went wrong) now and then."""
    import primeattn as pa
    from primeattn.compiled.blas import openblas_threads

    sys.unraisablehook = lambda _: None  # interrupts in places that cannot raise
    rng = np.random.default_rng(seed)
    blas = openblas_threads()[0]
    blas_threads = blas()
    pa.set_num_threads(1)
    todo, signals = calls(rng), Signals()
    pa.set_num_threads(threads)
    if fail or fail_once:
        fail_starts(fail or fail_once, bool(fail_once))
    names, struck, news = list(todo), 0, time.monotonic()
    while struck < rounds:
        name = names[rng.integers(len(names))]
        call, check = todo[name]
        delays = np.exp(rng.uniform(np.log(SHORTEST), np.log(LONGEST), rng.integers(1, 3))).tolist()
        wrong = []
        try:
            signals.strike(call, delays, by_keyboard=rng.random() < 0.2)
            if not check():
                wrong.append(f"{name}: wrong result")
            if blas() != blas_threads:
                wrong.append(f"{name}: BLAS has {blas()} threads")
                openblas_threads()[1](blas_threads)
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
        struck += len(delays)
        if wrong or time.monotonic() - news > 1:
            yield struck, wrong
            news = time.monotonic()
    yield struck, []


def watch(rounds, seed, threads, fail=0, fail_once=0):
    """Run ``rounds`` interrupts in another process; return how many were, and what went wrong."""
    options = dict(rounds=rounds, seed=seed, threads=threads, fail=fail, fail_once=fail_once)
    command = [sys.executable, __file__, "--process", json.dumps(options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines, errors = queue.SimpleQueue(), []
    out = threading.Thread(target=lambda: [*map(lines.put, process.stdout), lines.put(None)])
    err = threading.Thread(target=lambda: errors.extend(process.stderr))
    out.start(), err.start()
    struck, wrong = 0, []
    try:
        while (line := lines.get(timeout=SILENCE)) is not None:
            struck, found = json.loads(line)
            wrong += found
    except queue.Empty:
        process.send_signal(signal.SIGABRT)  # tells where it hangs
        wrong.append("hangs")
    status = process.wait()
    out.join(), err.join()
    if status:
        wrong.append(f"status {status}\n{''.join(errors[-60:])}")
    return struck, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20_000, help="interrupts in all (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument(
        "--fail", type=int, default=0, metavar="K", help="starts of threads fail from the K-th on"
    )
    parser.add_argument(
        "--fail-once", type=int, default=0, metavar="K", help="the K-th start of a thread fails"
    )
    parser.add_argument("--process", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.process:
        faulthandler.enable()
        for news in strike_all(**json.loads(args.process)):
            print(json.dumps(news), flush=True)
        return 0
    total, failures = 0, 0
    for i, threads in enumerate(args.threads):
        left, seed = args.rounds // len(args.threads), args.seed + 1000 * i
        while left > 0:
            struck, wrong = watch(left, seed, threads, args.fail, args.fail_once)
            left, seed, total, failures = (
                left - max(struck, 1),
                seed + 1,
                total + struck,
                failures + len(wrong),
            )
            print(
                f"{threads} threads: {struck} interrupts, {len(wrong)} failures",
                *wrong,
                sep="\n  ",
                flush=True,
            )
    print(f"{total} interrupts, {failures} failures")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
