"""Models with one attention layer, trained on Python's own source code in some ten seconds."""

from functools import cache
from typing import Any

import numpy as np
from tqdm import tqdm

import primeattn as pa
from primeattn.compiled.blas import one_blas_thread
from primeattn.language_model import sinusoids
from primeattn.nn.initializers import Normal
from primeattn.typing import Params, States

WIDTH, CONTEXT, STEPS = 64, 128, 500
PATTERNS = (
    pa.Pattern("primes", window=3, global_tokens=2),
    pa.Pattern("squares", window=3, global_tokens=2),
    pa.Pattern("mian_chowla", window=3, global_tokens=2),
    pa.Pattern(None, window=24, global_tokens=2),
)


@cache
def attention_maps() -> list[Any]:
    """Train, and return the attention of each head over a piece of held-out text."""
    model, ps, st, corpus = train(pa.SparseIndexAttention(WIDTH, PATTERNS, heads=len(PATTERNS)))
    text = corpus.heldout[None, :CONTEXT]
    call = pa.analysis.attention_calls(model, text, ps, st)["attention"]
    return [pa.analysis.attention_map(*call, head) for head in range(len(PATTERNS))]


@one_blas_thread()
def train(attention: pa.Layer) -> tuple[pa.Chain, Params, States, pa.data.Corpus]:
    """Train a model around an attention layer; return the model, its parameters and state, and the text."""
    corpus = pa.data.load_corpus()
    batches = pa.data.Batches(corpus.train, batch=8, context=CONTEXT, seed=0)
    embedding = pa.Chain(
        pa.Embedding(256, WIDTH, previous=1, init=Normal(0.2)),
        pa.PositionalEmbedding(CONTEXT, WIDTH, init=sinusoids),
        pa.RMSNorm(WIDTH),
    )
    readout = pa.Chain(pa.RMSNorm(WIDTH), pa.Dense(WIDTH, 4 * WIDTH), pa.gelu, pa.Dense(4 * WIDTH, 256))
    model = pa.Chain(embedding=embedding, attention=attention, readout=readout)
    ps, st = pa.setup(np.random.default_rng(0), model)
    optimizer = pa.optim.AdamW(lr=4e-3)
    moments = optimizer.init(ps)
    workspace = pa.Workspace()
    for step in tqdm(range(STEPS), desc="training", leave=False, disable=None):
        workspace.reset()
        tokens, targets = next(batches)
        logits, st, pullback = model.pullback(tokens, ps, st, workspace=workspace)
        _, dlogits = pa.losses.cross_entropy(logits, targets, workspace=workspace)
        _, grads = pullback(dlogits)
        rate = pa.optim.warmup_cosine(step, base_lr=optimizer.lr, warmup=STEPS // 20, total=STEPS)
        optimizer.update(ps, grads, moments, lr=rate, out=(ps, moments))
    return model, ps, st, corpus
