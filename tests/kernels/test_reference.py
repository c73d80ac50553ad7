"""The oracle itself, against loops that write the definition out and against finite differences."""

import math

import numpy as np
import pytest

import primeattn as pa
from primeattn.kernels import reference


def keys(pattern, i, first, last):
    offsets = set(pattern.offsets(max(i + 1, 0)).tolist())
    return [
        j for j in range(max(first, 0), min(last, i + 1)) if j < pattern.global_tokens or i - j in offsets
    ]


@pytest.mark.parametrize("q_start,k_start", [(0, 0), (5, 0), (5, 3), (0, 4), (-3, -2), (2, -4)])
def test_forward_is_the_formula(q_start, k_start, rng):
    q, k, v = rng.standard_normal((3, 1, 1, 12, 3))
    pattern = pa.Pattern("primes", window=1, global_tokens=2)
    out, lse = reference.forward(q, k, v, pattern, scale=0.3, q_start=q_start, k_start=k_start)
    for r in range(12):
        visible = [j - k_start for j in keys(pattern, q_start + r, k_start, k_start + 12)]
        if not visible:
            assert (out[0, 0, r] == 0).all() and lse[0, 0, r] == -np.inf
            continue
        weights = [math.exp(0.3 * float(q[0, 0, r] @ k[0, 0, j])) for j in visible]
        expected = sum(w * v[0, 0, j] for w, j in zip(weights, visible, strict=True)) / sum(weights)
        np.testing.assert_allclose(out[0, 0, r], expected)
        assert lse[0, 0, r] == pytest.approx(math.log(sum(weights)))


def test_mask_by_eye():
    pattern = pa.Pattern(np.array([3]), window=1, global_tokens=1)
    assert reference.mask(pattern, 6, 6).astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 0, 1, 0, 1, 1],
    ]
    assert reference.mask(pattern, 2, 3, q_start=4, k_start=2).astype(int).tolist() == [[0, 1, 1], [1, 0, 1]]
    assert reference.mask(pattern, 4, 4, q_start=-2, k_start=-1).astype(int).tolist() == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 1, 1, 0],
    ]


def test_terms_of_the_score_are_the_formula(rng):
    """One row: the cap first, then the bias of the offset or of the global key, then the slope."""
    q, (k, v) = rng.standard_normal((1, 1, 1, 3)), rng.standard_normal((2, 1, 1, 12, 3))
    pattern = pa.Pattern("primes", window=1, global_tokens=3)
    by_offset, by_key = rng.standard_normal((1, 10)), rng.standard_normal((1, 3))
    out, lse = reference.forward(
        *(q, k, v, pattern),
        **{"q_start": 9, "k_start": 2, "scale": 2.0, "softcap": 1.5},
        **{"offset_bias": by_offset, "global_bias": by_key, "slopes": np.array([0.25])},
    )
    offsets = [0, 1, 2, 3, 5, 7]
    scores = {}
    for j in (2, 4, 6, 7, 8, 9):
        s = 1.5 * math.tanh(2 * float(q[0, 0, 0] @ k[0, 0, j - 2]) / 1.5)
        bias = by_key[0, j] if j < 3 else by_offset[0, offsets.index(9 - j)]
        scores[j] = s + bias - 0.25 * (9 - j)
    total = sum(map(math.exp, scores.values()))
    assert lse[0, 0, 0] == pytest.approx(math.log(total))
    np.testing.assert_allclose(
        out[0, 0, 0], sum(math.exp(s) / total * v[0, 0, j - 2] for j, s in scores.items())
    )


TERMS = {"slopes": np.array([0.5, 0.25, 0.1, -0.2]), "softcap": 0.8}


@pytest.mark.parametrize(
    "options",
    [
        *({}, {"scale": -0.7}, {"q_start": 4, "k_start": 2}, {"cu_seqlens": [0, 3, 3, 10]}),
        *(TERMS, TERMS | {"q_start": 4, "k_start": 1}),
    ],
    ids=["plain", "scale", "starts", "packed", "terms", "terms and starts"],
)
def test_backward_by_finite_differences(options, rng):
    q = rng.standard_normal((1, 4, 10, 3))
    k, v = rng.standard_normal((2, 1, 2, 10, 3))
    patterns = [pa.Pattern(s, window=1, global_tokens=g) for s in ("primes", "squares") for g in (0, 2)]
    dout, dlse = rng.standard_normal(q.shape), rng.standard_normal(q.shape[:3])

    def call(arrays):
        biases = dict(zip(("offset_bias", "global_bias"), arrays[3:], strict=True))
        return arrays[:3], options | biases

    def loss(*arrays):
        inputs, given = call(arrays)
        out, lse = reference.forward(*inputs, patterns, **given)
        return (out * dout).sum() + np.where(lse == -np.inf, 0, lse * dlse).sum()

    arrays = [q, k, v, rng.standard_normal((4, 9)), rng.standard_normal((4, 2))]
    inputs, given = call(arrays)
    out, lse = reference.forward(*inputs, patterns, **given)
    grads = reference.backward(dout, *inputs, out, lse, patterns, dlse=dlse, **given)
    for which in range(5):
        step = rng.standard_normal(arrays[which].shape)
        ends = [
            loss(*(a + h * step if i == which else a for i, a in enumerate(arrays))) for h in (1e-6, -1e-6)
        ]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx((grads[which] * step).sum(), rel=1e-7)
