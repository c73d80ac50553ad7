"""A small language model: building, scoring text, and generating it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.checks import as_int, integers, is_real
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
    with_cache,
    without_cache,
)
from primeattn.nn._layer import parameter_dtype
from primeattn.nn.initializers import Normal
from primeattn.tree import test_mode
from primeattn.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Sequence as Several

    from primeattn.nn import Layer
    from primeattn.patterns import Pattern
    from primeattn.typing import Array, DTypeLike, Params, Shape, States

__all__ = ["evaluate", "generate", "make_model", "sinusoids", "stream"]


def make_model(
    pattern: Pattern | Several[Pattern | Several[Pattern]],
    *,
    layers: int | None = None,
    width: int = 128,
    heads: int = 4,
    context: int = 256,
    tied: bool = False,
    vocab: int = 256,
    previous: int = 1,
) -> Chain | Tied:
    """Return the model: tokens (batch, seq) -> logits (batch, seq, vocab), with seq at most ``context``.

    Each position sees its own token and ``previous`` ones before through the embedding, and earlier ones
    through ``layers`` blocks ``x = x + attention(norm(x)); x = x + mlp(norm(x))``.

    Parameters
    ----------
    pattern : Pattern, or list
        Of every attention layer; a list has an entry for each, a Pattern or one for each head. The parameters
        have the same structure for all patterns.
    layers : int, optional
        Number of blocks; by default 2, or as many as the list has entries.
    width, heads : int
        Features of a token (a multiple of ``heads``), attention heads.
    context : int
        Most tokens seen at once.
    tied : bool
        Whether the logits are products with the vectors of the embedding (see `Tied`), instead of a last
        layer with a weight and a bias of its own.
    vocab : int
        Tokens are 0 .. vocab - 1; by default bytes.
    previous : int
        Number of earlier tokens that each position sees through the embedding (see `Embedding`).

    Returns
    -------
    Chain or Tied
        Without parameters: ``pa.setup`` draws them.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    See Also
    --------
    evaluate : Bits per byte of a text.
    generate : Writes text.
    primeattn.train.run : Trains such a model.

    Examples
    --------
    >>> import primeattn as pa
    >>> pattern = pa.Pattern("primes", window=3)
    >>> models = [pa.language_model.make_model(pattern, layers=1, width=32, tied=t) for t in (False, True)]
    >>> [model.parameter_count for model in models]
    [45568, 37120]
    >>> mixed = pa.language_model.make_model([pattern, pa.Pattern("squares")], width=32, vocab=16)
    >>> mixed.parameter_count
    34800
    """
    if not isinstance(tied, bool):
        raise TypeError(f"tied: expected True or False, got {tied!r}")
    stack = _stack(pattern, layers)
    blocks = []
    for layer in stack:
        attention = SparseIndexAttention(width, layer, heads=heads)
        mlp = Chain(RMSNorm(width), Dense(width, 4 * width), gelu, Dense(4 * width, width))
        blocks += [SkipConnection(Chain(RMSNorm(width), attention)), SkipConnection(mlp)]
    embedding = Embedding(vocab, width, previous=previous, init=Normal(0.2))
    positions = PositionalEmbedding(context, width, init=sinusoids)
    if tied:
        return Tied(embedding, Chain(positions, *blocks, RMSNorm(width)))
    return Chain(embedding, positions, *blocks, RMSNorm(width), Dense(width, vocab))


def _stack(pattern, layers):
    if layers is not None:
        layers = as_int("layers", layers, minimum=0)
    if not isinstance(pattern, list):
        return [pattern] * (2 if layers is None else layers)
    if layers not in (None, len(pattern)):
        raise ValueError(f"layers: expected {len(pattern)}, the patterns of the list, got {layers}")
    return pattern


def sinusoids(rng: Any, shape: Shape, dtype: DTypeLike) -> Array:
    """Initialiser of positions: 0.2 sin(t w) and 0.2 cos(t w) at frequencies w from 1 down to 1/10000.

    Vaswani et al., Attention is all you need (2017). Learned positions that start at random need most of a
    short run to tell distances apart; these do so from the start. Draws nothing.

    Parameters
    ----------
    rng : numpy.random.Generator
        Not used.
    shape : (int, int)
        Positions, and features.
    dtype : dtype
        Of the array.

    Returns
    -------
    array
        A new one.

    See Also
    --------
    primeattn.PositionalEmbedding : Takes it as ``init``.

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


def evaluate(model: Layer, ps: Params, st: States, text: Array, context: int, batch: int = 16) -> float:
    """Return the bits per byte of ``text``: the mean of -log2 p over its bytes, each scored once.

    The windows are those of :func:`primeattn.data.evaluation_windows`: bytes beyond the first window have at
    least ``context // 2`` bytes before them, and the first byte follows a newline.

    Parameters
    ----------
    model : Layer
        Tokens (batch, t) -> logits (batch, t, 256).
    ps, st : nested dicts
        Its parameters and state; with dropout, ``pa.test_mode(st)``.
    text : ndarray of uint8, shape (size,)
        The bytes to score.
    context : int
        Bytes in a window.
    batch : int
        Windows at a time.

    Returns
    -------
    float
        Bits per byte.

    See Also
    --------
    primeattn.baselines.baselines : The same of count models and compressors.

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


def generate(
    model: Layer,
    ps: Params,
    st: States,
    prompt: Any,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: np.random.Generator | int | None = None,
    *,
    context: int | None = None,
    slide: bool = False,
) -> Any:
    """Go on from a prompt: each token is drawn from softmax(logits / temperature) given those before.

    The model computes each token once, with the caches of `with_cache`: layers of your own that look at other
    tokens must have one.

    Parameters
    ----------
    model : Layer
        Tokens (batch, t) -> logits (batch, t, vocabulary).
    ps, st : nested dicts
        Its parameters and state.
    prompt : bytes, int array (t,), or list of either
        At least one token. A list is a batch; its prompts may differ in length.
    length : int
        Number of tokens to draw.
    temperature : float
        At 0, each token is the one with the largest logit (the first of equals), and ``rng`` is not used.
    top_k : int, optional
        Draw only from the ``top_k`` most likely tokens.
    top_p : float, optional
        Draw only from the fewest tokens that have at least this probability together, in (0, 1].
    rng : numpy.random.Generator or int
        Draws the tokens; an int is a seed, None the seed 0.
    context : int, optional
        Most positions that the model takes; without it, all of the text must fit.
    slide : bool
        When ``context`` positions are used, go on with the later half of the text as the prompt. Otherwise
        more than ``context`` tokens are refused at once. Prompts of a batch slide together, when the longest
        has used them.

    Returns
    -------
    bytes, int array (length,), or list of either
        As the prompt.

    See Also
    --------
    stream : One token at a time.
    primeattn.with_cache : The caches.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> model = pa.language_model.make_model(pa.Pattern("primes", window=3), layers=1, width=16, context=32)
    >>> ps, st = pa.setup(np.random.default_rng(0), model)
    >>> len(pa.language_model.generate(model, ps, st, b"def ", 10, rng=0))
    10
    """
    length, batched = as_int("length", length, minimum=0), isinstance(prompt, list)
    prompts = prompt if batched else [prompt]
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "context": context, "slide": slide}
    steps = stream(model, ps, st, prompts, length, rng=rng, **options)
    drawn = np.array(list(steps), np.int64).reshape(length, len(prompts)).T
    drawn = [
        bytes(row.tolist()) if isinstance(p, (bytes, bytearray)) else row
        for p, row in zip(prompts, drawn, strict=True)
    ]
    return drawn if batched else drawn[0]


def stream(
    model: Layer,
    ps: Params,
    st: States,
    prompts: Any,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    rng: np.random.Generator | int | None = None,
    context: int | None = None,
    slide: bool = False,
) -> Iterator[Array]:
    """Yield the tokens of `generate` one by one, as int arrays (batch,), for a list of prompts.

    Parameters
    ----------
    model, ps, st
        As in `generate`; so are the options below.
    prompts : list
        Of bytes or int arrays (t,), a batch.
    length : int
        Number of tokens to draw for each.
    temperature, top_k, top_p, rng, context, slide
        How to draw, and what to do with a long text.

    Returns
    -------
    iterator of int arrays (batch,)
        The next token of each text.

    Raises
    ------
    ValueError
        If there is no prompt, or the text does not fit ``context``.

    See Also
    --------
    generate : All tokens at once.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> model = pa.language_model.make_model(pa.Pattern("primes", window=3), layers=1, width=16, context=32)
    >>> ps, st = pa.setup(np.random.default_rng(0), model)
    >>> [tokens.shape for tokens in pa.language_model.stream(model, ps, st, [b"a", b"bc"], 2)]
    [(2,), (2,)]
    """
    draw = _sampler(temperature, top_k, top_p, rng)
    texts = [_tokens(prompt) for prompt in prompts]
    if not texts:
        raise ValueError("prompt: expected at least one, got an empty list")
    needed = max(map(len, texts)) + length - 1  # the last token is not looked at
    if slide and context is None:
        raise ValueError("slide: expected context with it, the most positions that the model takes, got None")
    if context is not None and as_int("context", context, minimum=1) < needed and not slide:
        raise ValueError(f"context: expected at least {needed} positions, or slide=True, got {context}")
    capacity = max(needed, 1) if context is None else min(needed, context)
    return _steps(model, ps, without_cache(test_mode(st)), texts, length, capacity, draw)


def _steps(model, ps, st, texts, length, capacity, draw):
    workspace, cached, used = Workspace(), None, 0
    for _ in range(length):
        if cached is None or used == capacity:
            last = capacity if cached is None else max(1, capacity // 2)
            fresh = _left_padded([text[-last:] for text in texts])
            starts = np.array([min(len(text), last) for text in texts]) - fresh.shape[1]
            cached = with_cache(model, st, len(texts), capacity, start=starts, dtype=parameter_dtype(ps))
            used = 0
        workspace.reset()
        logits, cached = model(fresh, ps, cached, workspace=workspace)
        used += fresh.shape[1]
        drawn = draw(logits[:, -1].astype(np.float64))
        fresh = drawn[:, None]
        for text, token in zip(texts, drawn.tolist(), strict=True):
            text.append(token)
        yield drawn


def _tokens(prompt):
    """The tokens of a prompt as a list."""
    if isinstance(prompt, (bytes, bytearray)):
        prompt = np.array(list(prompt), np.uint8)
    if isinstance(prompt, str):
        raise TypeError(f"prompt: expected bytes, such as b'def ', or tokens, got {prompt!r}")
    tokens = integers("prompt", prompt)
    if tokens.ndim != 1:
        raise ValueError(
            "prompt: expected bytes, an array of tokens, or a list of such prompts, "
            f"got one of shape {tokens.shape}"
        )
    if tokens.size == 0:
        raise ValueError("prompt: expected at least one token, got none")
    return tokens.tolist()


def _left_padded(texts):
    longest = max(map(len, texts))
    padded = np.zeros((len(texts), longest), np.int64)
    for row, text in zip(padded, texts, strict=True):
        row[longest - len(text) :] = text
    return padded


def _sampler(temperature, top_k, top_p, rng):
    """A function from logits (batch, vocabulary) to tokens (batch,)."""
    if not is_real(temperature):
        raise TypeError(f"temperature: expected a number, got {temperature!r}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number >= 0, got {temperature}")
    top_k = None if top_k is None else as_int("top_k", top_k, minimum=1)
    if top_p is not None and not (is_real(top_p) and 0 < top_p <= 1):
        raise ValueError(f"top_p: expected a number in (0, 1], got {top_p!r}")
    if not isinstance(rng, np.random.Generator):
        rng = np.random.default_rng(0 if rng is None else as_int("rng", rng, minimum=0))

    def draw(logits):
        if temperature == 0:
            return logits.argmax(axis=1)
        order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]  # most likely first
        kept = np.take_along_axis(logits, order, axis=1)
        with np.errstate(over="ignore"):  # at a small temperature only the largest remains
            p = np.exp((kept - kept[:, :1]) / temperature)
        below = np.cumsum(p, axis=1) - p  # the probability of more likely ones
        if top_p is not None:
            p[below >= top_p * p.sum(axis=1, keepdims=True)] = 0
        ends = np.cumsum(p, axis=1)
        at = (ends <= rng.random(len(p))[:, None] * ends[:, -1:]).sum(axis=1)
        return order[np.arange(len(p)), at]

    return draw
