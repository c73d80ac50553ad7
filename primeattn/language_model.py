"""A small language model over bytes: building, scoring, sampling."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

from primeattn.checks import as_int
from primeattn.data import evaluation_windows
from primeattn.losses import cross_entropy
from primeattn.nn import (
    Chain,
    Dense,
    Embedding,
    PositionalEmbedding,
    RMSNorm,
    SkipConnection,
    SparseIndexAttention,
    Tied,
    gelu,
)
from primeattn.nn.initializers import Normal
from primeattn.tree import test_mode
from primeattn.workspace import Workspace

__all__ = ["evaluate", "make_model", "sample", "sinusoids"]


def make_model(pattern, *, layers=2, width=128, heads=4, context=256, tied=False) -> Chain | Tied:
    """Return the model: tokens (batch, seq) -> logits (batch, seq, 256), with seq at most ``context``.

    Each position sees its own byte and the one before through the embedding, and earlier ones through
    ``layers`` blocks ``x = x + attention(norm(x)); x = x + mlp(norm(x))``.

    Parameters
    ----------
    pattern : Pattern
        Of every attention layer. The parameters have the same structure for all patterns.
    layers, width, heads : int
        Number of blocks, features of a token (a multiple of ``heads``), attention heads.
    context : int
        Most tokens seen at once.
    tied : bool
        Whether the logits are products with the vectors of the embedding (see `Tied`), instead of a last
        layer with a weight and a bias of its own.

    Examples
    --------
    >>> import primeattn as pa
    >>> pattern = pa.Pattern("primes", window=3)
    >>> models = [pa.language_model.make_model(pattern, layers=1, width=32, tied=t) for t in (False, True)]
    >>> [model.parameter_count for model in models]
    [45568, 37120]
    """
    if not isinstance(tied, bool):
        raise TypeError(f"tied: expected True or False, got {tied!r}")
    blocks = []
    for _ in range(layers):
        attention = SparseIndexAttention(width, pattern, heads=heads)
        mlp = Chain(RMSNorm(width), Dense(width, 4 * width), gelu, Dense(4 * width, width))
        blocks += [SkipConnection(Chain(RMSNorm(width), attention)), SkipConnection(mlp)]
    embedding = Embedding(256, width, previous=1, init=Normal(0.2))
    positions = PositionalEmbedding(context, width, init=sinusoids)
    if tied:
        return Tied(embedding, Chain(positions, *blocks, RMSNorm(width)))
    return Chain(embedding, positions, *blocks, RMSNorm(width), Dense(width, 256))


def sinusoids(rng, shape, dtype):
    """Initialiser of positions: 0.2 sin(t w) and 0.2 cos(t w) at frequencies w from 1 down to 1/10000.

    Vaswani et al., Attention is all you need (2017). Learned positions that start at random need most of a
    short run to tell distances apart; these do so from the start. Draws nothing.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.language_model.sinusoids(None, (2, 4), float).round(2)
    array([[0.  , 0.  , 0.2 , 0.2 ],
           [0.17, 0.  , 0.11, 0.2 ]])
    """
    positions, features = shape
    frequency = 10000.0 ** -np.linspace(0, 1, (features + 1) // 2)
    angle = np.arange(positions)[:, None] * frequency
    return (0.2 * np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[:, :features]).astype(dtype)


def evaluate(model, ps, st, text, context, batch=16) -> float:
    """Return the bits per byte of ``text``: the mean of -log2 p over its bytes, each scored once.

    The windows are those of :func:`primeattn.data.evaluation_windows`: bytes beyond the first window have at
    least ``context // 2`` bytes before them, and the first byte follows a newline.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> model = pa.language_model.make_model(pa.Pattern("primes", window=3), layers=1, width=16, context=32)
    >>> ps, st = pa.setup(np.random.default_rng(0), model)
    >>> text = np.frombuffer(b"to be or not to be, that is the question", np.uint8)
    >>> 7 < pa.language_model.evaluate(model, ps, st, text, context=32) < 9  # it has learnt nothing yet
    True
    """
    batch = as_int("batch", batch, minimum=1)
    tokens, targets, scored = evaluation_windows(text, context)
    labels = np.where(scored, targets, np.int64(-100))
    st, workspace, nats = test_mode(st), Workspace(), 0.0
    for i in range(0, len(tokens), batch):
        workspace.reset()
        logits, _ = model(tokens[i : i + batch], ps, st, workspace=workspace)
        loss, _ = cross_entropy(logits, labels[i : i + batch], workspace=workspace)
        nats += loss * int(scored[i : i + batch].sum())
    return nats / math.log(2) / text.size


def sample(model, ps, st, length, context, rng, temperature=0.8) -> bytes:
    """Return ``length`` bytes, each drawn from softmax(logits / temperature) given those before it.

    At temperature 0 each is the byte with the largest logit (the first of equals), and ``rng`` is not used.
    The text begins after a newline. The model sees at most the last ``context`` bytes; when that many have
    been written, it drops the first half of them.

    Raises
    ------
    TypeError, ValueError
        A length below 0, a context below 1, a temperature that is negative or not finite.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> model = pa.language_model.make_model(pa.Pattern("primes", window=3), layers=1, width=16, context=32)
    >>> ps, st = pa.setup(np.random.default_rng(0), model)
    >>> len(pa.language_model.sample(model, ps, st, 10, 32, np.random.default_rng(0)))
    10
    """
    length, context = as_int("length", length, minimum=0), as_int("context", context, minimum=1)
    if not isinstance(temperature, Real) or isinstance(temperature, bool):
        raise TypeError(f"temperature: expected a number, got {temperature!r}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number >= 0, got {temperature}")
    st, workspace = test_mode(st), Workspace()
    text, start = bytearray(b"\n"), 0
    window = np.zeros((1, context), np.uint8)  # of fixed length: no byte sees the padding after it
    while len(text) <= length:
        if len(text) - start > context:
            start = len(text) - max(1, context // 2)
        seen = text[start:]
        window[0, : len(seen)] = seen
        workspace.reset()
        logits, _ = model(window, ps, st, workspace=workspace)
        text.append(_draw(logits[0, len(seen) - 1].astype(np.float64), temperature, rng))
    return bytes(text[1:])


def _draw(logits, temperature, rng):
    if temperature == 0:
        return logits.argmax()
    with np.errstate(over="ignore"):  # at a small temperature only the largest remains
        p = np.exp((logits - logits.max()) / temperature)
    return rng.choice(256, p=p / p.sum())
