"""What users write, with types; never run: mypy --strict and pyright read it (see test_typing)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

import primeattn as pa
from primeattn.nn import Layer, Parameter
from primeattn.sequences import Sequence, primes
from primeattn.typing import Array, DTypeLike, Memory, Params, SequenceLike, States


def patterns(text: SequenceLike) -> list[pa.Pattern]:
    """All that a pattern takes."""
    offsets: NDArray[np.int64] = np.array([1, 5, 9])
    return [
        pa.Pattern("2 * primes | squares", window=3, global_tokens=2),
        pa.Pattern(2 * primes | pa.sequences.squares),
        pa.Pattern(pa.sequences.powers(3)),
        pa.Pattern(lambda limit: range(1, limit + 1, 7)),
        pa.Pattern([1, 5, 9]),
        pa.Pattern(offsets),
        pa.Pattern(None, window=3),
        pa.Pattern(text) | pa.Pattern("primes"),
    ]


def far_terms(sequence: Sequence) -> tuple[int, list[int]]:
    title = sequence.title or repr(sequence)
    print(title.upper(), sequence.estimate(10**6))
    return sequence.count(100), sequence.between(10**6, 10**6 + 10).tolist()


@pa.sequences.register(
    "odd", title="Odd", oeis="A005408", count=lambda x: x / 2, asymptotic="x / 2", why="half of all"
)
def odd(known: Array, start: int, stop: int) -> Array:
    return np.arange(start + 1 + start % 2, stop + 1, 2)


def kernels(q: NDArray[np.float32], pattern: pa.Pattern) -> NDArray[np.float32]:
    out, lse = np.empty_like(q), np.empty(q.shape[:3], np.float32)
    pa.sparse_index_kernel(out, lse, q, q, q, pattern, softcap=30.0, kernel="scalar")
    out, lse = pa.attention(q, q, q, [pattern] * q.shape[1], scale=0.1)
    dq, dk, dv = (np.empty_like(q) for _ in range(3))
    pa.sparse_index_kernel_backward(dq, dk, dv, out, q, q, q, out, lse, pattern, q_start=np.array([0]))
    parts = [pa.attention(q, q[:, :, a : a + 8], q[:, :, a : a + 8], pattern, k_start=a) for a in (0, 8)]
    out, lse = pa.merge([part[0] for part in parts], [part[1] for part in parts])
    return out


@dataclass(frozen=True, repr=False)
class Scale(Layer):
    """A layer of one's own."""

    dim: int

    def parameters(self) -> Params:
        return {"scale": Parameter((self.dim,), pa.nn.ones)}

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        return np.multiply(x, ps["scale"], out=memory.take(x.shape, x.dtype)), st, x

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Array, Params]:
        dscale = memory.take((self.dim,), dy.dtype)
        np.sum((dy * saved).reshape(-1, self.dim), axis=0, out=dscale)
        return np.multiply(dy, ps["scale"], out=memory.take(dy.shape, dy.dtype)), {"scale": dscale}


def small(rng: np.random.Generator, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An initialiser of one's own."""
    return (0.01 * rng.standard_normal(shape)).astype(dtype)


def models(pattern: pa.Pattern) -> pa.Chain:
    heads = pa.SparseIndexAttention(64, [pattern, pa.Pattern(None, window=9)], heads=2, rotary=10000.0)
    print(heads.pattern_of(0).density(64), pa.PrimeSelfAttention(64, heads=4).pattern.window)
    mlp = pa.Chain(pa.Dense(64, 128, init=small), pa.gelu, pa.Dense(128, 64, bias=False))
    model = pa.Chain(
        pa.Embedding(256, 64, previous=1, init=pa.nn.Normal(0.2)),
        pa.SkipConnection(pa.Chain(pa.RMSNorm(64), heads, pa.Dropout(0.1))),
        Scale(64),
        mlp=pa.SkipConnection(mlp),
        head=pa.Dense(64, 256),
    )
    print(model["head"].parameter_count, len(model), list(model))
    return model


def steps(model: Layer, batches: Iterator[tuple[Array, Array]]) -> tuple[Params, float]:
    ps, st = pa.setup(np.random.default_rng(0), model, dtype=np.float32)
    optimizer = pa.optim.AdamW(lr=4e-3, decay=lambda path, p: p.ndim > 1)
    moments = optimizer.init(ps)
    workspace = pa.Workspace()
    loss = float("inf")
    for step, (tokens, targets) in zip(range(10), batches, strict=False):
        workspace.reset()
        logits, st, pullback = model.pullback(tokens, ps, st, workspace=workspace)
        loss, dlogits = pa.losses.cross_entropy(logits, targets, workspace=workspace)
        _, grads = pullback(dlogits)
        grads, norm = pa.optim.clip_by_global_norm(grads, 1.0)
        rate = pa.optim.warmup_cosine(step, base_lr=optimizer.lr, warmup=2, total=10)
        ps, moments = optimizer.update(ps, grads, moments, lr=rate)
        print(f"{loss:.3f} {norm:.2f}")
    pa.checkpoint.save(Path("runs") / "a.npz", {"parameters": ps, "step": 10}, model)
    ps = pa.checkpoint.load("runs/a.npz", model=model)["parameters"]
    weights: dict[str, Array] = pa.tree.flatten(ps)
    print({path: leaf.shape for path, leaf in weights.items()}, pa.tree.map(np.zeros_like, ps))
    return ps, loss


def text(model: Layer, ps: Params, st: States) -> bytes:
    corpus = pa.data.load_corpus(Path("book.txt"))
    print(pa.language_model.evaluate(model, ps, pa.test_mode(st), corpus.heldout, 256))
    print(pa.baselines.CountModel(corpus.train, order=2).bits(corpus.heldout).mean())
    written: bytes = pa.language_model.generate(model, ps, st, b"def ", 20, temperature=0.8, top_k=40)
    return written


@dataclass(frozen=True, repr=False)
class Parity(pa.tasks.Task):
    """A task of one's own."""

    length: int
    vocab = 2
    chance = 0.5

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
        tokens = rng.integers(0, 2, (batch, self.length))
        return tokens, np.bitwise_xor.accumulate(tokens, axis=1)


def study() -> None:
    stacks: dict[str, pa.Pattern | list[pa.Pattern]] = {
        "primes": pa.Pattern("primes", window=3),
        "mixed": [pa.Pattern("primes"), pa.Pattern("squares")],
    }
    runs = pa.study.grid([Parity(8), pa.tasks.copy(length=16, distance=7)], stacks, layers=(1, 2), steps=20)
    records = pa.study.run(runs, out="study", jobs=2)
    print(pa.study.summary(records), pa.study.summary(records).column("mean").max())


def analysis(pattern: pa.Pattern) -> dict[str, float]:
    h = pa.analysis.hops([pattern, pattern], 4097)
    table = pa.analysis.compare([pattern, pa.Pattern(pa.sequences.matched_random(primes, seed=0))], 1025)
    gap, largest = pa.analysis.extreme_eigenvalues(pattern, 1024)
    print(table.csv(), table[0]["pairs"], pa.analysis.explain(pattern, 9, 7))
    mask = pattern.to_csr(100)
    return {"mean": float(h.mean()), "gap": gap, "largest": largest, "pairs": float(mask.nnz)}


def pictures(pattern: pa.Pattern, ax: Axes | None = None) -> Axes:
    axes = pa.plot.masks({"mine": pattern, "window": pa.Pattern(None, window=9)}, 64)
    pa.plot.save(axes[0].figure, "masks.png")
    pa.plot.hops([pattern], 100, ax=ax)
    return pa.plot.mask(pattern, 64)
