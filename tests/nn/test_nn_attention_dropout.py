"""Dropout of attention layers: only in training mode, by the random state in st."""

import numpy as np
import pytest

import primeattn as pa

pytestmark = pytest.mark.usefixtures("one_head_at_a_time")

PATTERN = pa.Pattern("primes", window=2, global_tokens=1)


def made(rng, **options):
    layer = pa.SparseIndexAttention(8, PATTERN, heads=2, **options)
    ps, st = pa.setup(rng, layer, dtype=np.float64)
    return layer, rng.standard_normal((2, 30, 8)), ps, st


def test_only_layers_with_dropout_have_a_random_state(rng):
    assert made(rng)[3] == made(rng, dropout=0)[3] == {"cu_seqlens": None}
    assert made(rng, dropout=0.1)[3].keys() == {"cu_seqlens", "rng", "training"}
    _, st = pa.setup(rng, pa.PrimeSelfAttention(8, heads=2, dropout=0.1))
    assert st["training"]


@pytest.mark.slow
def test_each_state_drops_its_own_pairs_and_test_mode_none(rng):
    layer, x, ps, st = made(rng, dropout=0.5)
    y, new = layer(x, ps, st)
    assert np.array_equal(layer(x, ps, st)[0], y)
    np.testing.assert_array_equal(new["rng"], st["rng"] + np.array([0, 1], np.uint64))
    assert not np.allclose(layer(x, ps, new)[0], y)
    tested, same = layer(x, ps, pa.test_mode(st))
    np.testing.assert_array_equal(same["rng"], st["rng"])
    plain = made(rng)[0]
    assert np.array_equal(tested, plain(x, ps, {"cu_seqlens": None})[0])
    assert not np.allclose(tested, y)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"offset_bias": 5, "softcap": 2.0, "sinks": True, "rotary": 50.0}])
def test_gradients_in_training_mode(options, rng):
    layer, x, _, _ = made(rng, dropout=0.3, **options)
    pa.check_gradients(layer, x)


@pytest.mark.slow  # compiles
def test_gradients_of_packed_sequences(rng):
    layer, x, ps, st = made(rng, dropout=0.3)
    pa.check_gradients(layer, x[:1], ps, pa.with_segments(st, [0, 7, 30]))


def test_a_cache_serves_training_mode_too(rng):
    """A call draws as one without a cache does; each one with the next counter."""
    layer, x, ps, st = made(rng, dropout=0.5)
    cached = pa.with_cache(layer, st, 2, 30, dtype=np.float64)
    first, cached = layer(x[:, :20], ps, cached)
    np.testing.assert_allclose(first, layer(x[:, :20], ps, st)[0], atol=1e-13)
    rest, cached = layer(x[:, 20:], ps, cached)
    moved = {**st, "rng": st["rng"] + np.array([0, 1], np.uint64)}
    np.testing.assert_allclose(rest, layer(x, ps, moved)[0][:, 20:], atol=1e-13)
    assert int(cached["rng"][1]) == 2


def test_what_is_refused(rng):
    for p in (1, -0.1):
        with pytest.raises(ValueError, match=r"SparseIndexAttention: dropout must be in \[0, 1\)"):
            made(rng, dropout=p)
    layer, x, ps, st = made(rng, dropout=0.5)
    with pytest.raises(ValueError, match="rng in st must be a uint64 array"):
        layer(x, ps, {**st, "rng": np.zeros(2)})
