"""A whole training step of a small byte model, against the same model in torch with dense attention."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np

from primeattn import tree
from primeattn.bench.peers import NO_TORCH, find_torch
from primeattn.bench.report import CROWDED, crowded, milliseconds, number, table
from primeattn.bench.timing import as_seconds, as_sizes, blas_notes, interleave, thread_count, watched
from primeattn.kernels import get_num_threads
from primeattn.losses import cross_entropy
from primeattn.nn import (
    Chain,
    Dense,
    Embedding,
    LayerNorm,
    PositionalEmbedding,
    SkipConnection,
    SparseIndexAttention,
    gelu,
    setup,
)
from primeattn.optim import AdamW
from primeattn.patterns import Pattern
from primeattn.workspace import Workspace

__all__ = ["Model", "allocation", "our_step", "run", "text", "torch_step"]

PRIMES = Pattern("primes", window=3, global_tokens=2)
VOCAB, RATE, DECAY = 256, 1e-3, 0.01
NOTES = (
    "model: embedding and learned positions; 3 blocks of x += attention(norm(x)), x += mlp(norm(x)) with "
    "4 heads, 128 features and an MLP four times as wide; norm and a linear head over 256 bytes",
    "step: forward, cross-entropy, backward and AdamW, in float32, from the same initial parameters",
    "torch runs eagerly, with its fused kernels for attention over all causal pairs and for AdamW",
    CROWDED,
    "allocation: growth of the tracemalloc peak in a warm pass of the attention layer, and a warm step",
)


class Model:
    """Sizes of the model, its initial parameters, and one batch.

    Parameters
    ----------
    n : int
        Length of the sequences.
    pattern : Pattern
    batch, layers, width, heads : int
    """

    def __init__(self, n, pattern=PRIMES, *, batch=4, layers=3, width=128, heads=4):
        self.n, self.layers, self.width, self.heads = n, layers, width, heads
        blocks = []
        for _ in range(layers):
            attention = Chain(LayerNorm(width), SparseIndexAttention(width, pattern, heads=heads))
            mlp = Chain(LayerNorm(width), Dense(width, 4 * width), gelu, Dense(4 * width, width))
            blocks += [SkipConnection(attention), SkipConnection(mlp)]
        embedding = Embedding(VOCAB, width), PositionalEmbedding(n, width)
        self.chain = Chain(*embedding, *blocks, LayerNorm(width), Dense(width, VOCAB))
        rng = np.random.default_rng(0)
        self.ps, self.st = setup(rng, self.chain)
        text = rng.integers(VOCAB, size=(batch, n + 1))
        self.tokens, self.targets = np.ascontiguousarray(text[:, :-1]), np.ascontiguousarray(text[:, 1:])


def our_step(model):
    """Return a callable that takes one training step in place and returns the loss."""
    ps, workspace, optimizer = tree.map(np.copy, model.ps), Workspace(), AdamW(RATE, weight_decay=DECAY)
    moments = optimizer.init(ps)

    def step():
        workspace.reset()
        logits, _, pullback = model.chain.pullback(model.tokens, ps, model.st, workspace=workspace)
        loss, dlogits = cross_entropy(logits, model.targets, workspace=workspace)
        _, grads = pullback(dlogits)
        optimizer.update(ps, grads, moments, out=(ps, moments))
        return loss

    return step


def torch_step(model, torch):
    """Return the same in torch, with all causal pairs instead of the pattern."""
    nn, functional = torch.nn, torch.nn.functional

    class Attention(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.heads = heads
            self.Wi = nn.Linear(width, 3 * width, bias=False)
            self.Wo = nn.Linear(width, width, bias=False)

        def forward(self, x):
            q, k, v = self.Wi(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.Wo(out.transpose(1, 2).flatten(2))

    class Block(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
            self.mlp = nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.GELU(approximate="tanh"),
                nn.Linear(4 * width, width),
            )

        def forward(self, x):
            x = x + self.attention(x)
            return x + self.mlp(x)

    class Bytes(nn.Module):
        def __init__(self, n, layers, width, heads):
            super().__init__()
            self.embedding, self.positions = nn.Embedding(VOCAB, width), nn.Embedding(n, width)
            self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
            self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, VOCAB))

        def forward(self, tokens):
            return self.head(self.blocks(self.embedding(tokens) + self.positions.weight))

    module = Bytes(model.n, model.layers, model.width, model.heads)
    ours = list(tree.flatten(model.ps).items())  # both list their parameters in the order of the layers
    with torch.no_grad():
        for (path, array), parameter in zip(ours, module.parameters(), strict=True):
            is_table = path.split("/")[0] in ("layer_0", "layer_1")
            transposed = array.T if array.ndim == 2 and not is_table else array  # torch has (out, in)
            parameter.copy_(torch.from_numpy(transposed.copy()))
    groups = [[p for p in module.parameters() if (p.ndim >= 2) is decays] for decays in (True, False)]
    optimizer = torch.optim.AdamW(
        [{"params": group, "weight_decay": decay} for group, decay in zip(groups, (DECAY, 0.0), strict=True)],
        lr=RATE,
        fused=True,
    )
    tokens, targets = torch.from_numpy(model.tokens), torch.from_numpy(model.targets)

    def step():
        optimizer.zero_grad(set_to_none=True)
        logits = module(tokens)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def layer_pass(n, *, batch=4, width=128, heads=4):
    """Return a callable: forward and backward of the attention layer alone, with a workspace."""
    layer, workspace, rng = (
        SparseIndexAttention(width, PRIMES, heads=heads),
        Workspace(),
        np.random.default_rng(0),
    )
    ps, st = setup(rng, layer)
    x, dy = rng.standard_normal((2, batch, n, width), dtype=np.float32)

    def call():
        workspace.reset()
        _, _, pullback = layer.pullback(x, ps, st, workspace=workspace)
        pullback(dy)

    return call


def allocation(call, warm_up=3) -> int:
    """Return by how many bytes the memory of Python and NumPy grows at its peak during a warm call."""
    for _ in range(warm_up):
        call()
    gc.collect()
    tracemalloc.start()
    try:
        call()  # so that allocations caused by the tracer itself do not count
        gc.collect()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def run(*, n=None, threads=None, budget=None, quick=False) -> dict:
    """Time training steps and return the results, in the form written to JSON.

    Parameters
    ----------
    n, threads : sequence of int, optional
        Lengths of the sequences, 2048 and 8192 by default, and numbers of threads, by default as many as the
        kernels use.
    budget : float, optional
        Seconds for each, 30 by default.
    quick : bool
        Smaller defaults.
    """
    lengths = as_sizes("n", n, (256,) if quick else (2048, 8192))
    threads = as_sizes("threads", threads, (get_num_threads(),))
    budget = as_seconds("budget", budget, 3 if quick else 30)

    from tqdm import tqdm

    torch, rows = find_torch(), []
    with tqdm(total=len(threads) * len(lengths), desc="step", disable=None) as bar:
        for count in threads:
            for length in lengths:
                with thread_count(count, torch):
                    rows.append({"threads": count, "n": length, **_measure(length, torch, budget)})
                bar.update()
    return {
        "benchmark": "step",
        "settings": {"n": lengths, "threads": threads, "budget_s": budget, "quick": quick},
        "model": repr(Model(lengths[0]).chain),
        "notes": [*NOTES, *([] if torch else [NO_TORCH]), *blas_notes()],
        "rows": rows,
    }


def _measure(n, torch, budget):
    model = Model(n)
    ours = our_step(model)
    ours()  # compiles on first use
    calls = {"primeattn": ours} | ({"torch": torch_step(model, torch)} if torch else {})
    timings, others = watched(lambda: interleave(calls, budget))
    row = {name: timing.as_row() for name, timing in timings.items()}
    if torch:
        row["speedup"] = timings["torch"].median / timings["primeattn"].median
    return {
        **row,
        "cores_of_others": others,
        "tokens_per_s": model.tokens.size / timings["primeattn"].median,
        "layer_allocation_bytes": allocation(layer_pass(n)),
        "step_allocation_bytes": allocation(ours),
    }


def text(results) -> str:
    """Return the results as text."""
    header = ["context", "threads", "primeattn, ms", "torch, ms", "times faster", "tokens/s"]
    header += ["layer allocates, KB", "step allocates, KB"]
    lines = [
        [
            f"{row['n']}{crowded(row)}", str(row["threads"]),
            milliseconds(row["primeattn"]), milliseconds(row.get("torch", {})),
            number(row["speedup"]) if "speedup" in row else "-", f"{row['tokens_per_s']:,.0f}",
            *(f"{row[name] / 1024:.1f}" for name in ("layer_allocation_bytes", "step_allocation_bytes")),
        ]
        for row in results["rows"]
    ]  # fmt: skip
    heading = "training step, batch 4: milliseconds, median ± half the distance of the quartiles"
    return "\n".join([heading, table(header, lines), "", *(f"- {note}" for note in results["notes"])])
