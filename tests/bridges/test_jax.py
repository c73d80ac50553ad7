"""Attention on arrays of JAX against the kernels and the dense float64 oracle."""

import numpy as np
import pytest

import primeattn as pa
from primeattn.kernels import reference

jax = pytest.importorskip("jax")
pj = pytest.importorskip("primeattn.jax")
jnp = jax.numpy

PATTERN = pa.Pattern("primes", window=2, global_tokens=2)
OTHER = pa.Pattern("squares", window=1)
EACH = (PATTERN, OTHER, PATTERN, pa.Pattern([2, 5]))


@pytest.fixture(autouse=True)
def x64():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def qkv(rng):
    return [jnp.asarray(rng.standard_normal((2, heads, 13, 8))) for heads in (4, 2, 2)]


def biases(rng):
    shapes = {"offset_bias": (4, PATTERN.offsets(20).size), "global_bias": (4, 2), "slopes": (4,)}
    return {name: np.abs(rng.standard_normal(shape)) for name, shape in shapes.items()}


def loss(q, k, v, **options):
    out, lse = pj.attention(q, k, v, PATTERN, return_lse=True, **options)
    return jnp.sin(out).sum() + jnp.cos(lse).sum()


@pytest.mark.parametrize("pattern", [PATTERN, EACH, list(EACH)], ids=["one", "per head", "list"])
def test_values_are_those_of_the_kernel(rng, qkv, pattern):
    options = {"scale": 0.3, "softcap": 2.0, "dropout": 0.25, "dropout_seed": 2**64 - 3}
    options |= {"q_start": 1, "k_start": np.array([-1, 2])} | biases(rng)
    expected = pa.attention(*map(np.asarray, qkv), pattern, **options)

    def run(q, k, v):
        return pj.attention(q, k, v, pattern, return_lse=True, **options)

    for out, lse in (run(*qkv), jax.jit(run)(*qkv)):
        assert np.array_equal(out, expected[0]) and np.array_equal(lse, expected[1])


def test_packed_sequences(rng):
    q, k, v = jnp.asarray(rng.standard_normal((3, 1, 2, 20, 8)))
    expected, _ = pa.attention(*map(np.asarray, (q, k, v)), PATTERN, cu_seqlens=np.array([0, 7, 20]))
    assert np.array_equal(pj.attention(q, k, v, PATTERN, cu_seqlens=[0, 7, 20]), expected)
    run = jax.jit(lambda bounds: pj.attention(q, k, v, PATTERN, cu_seqlens=bounds))
    assert np.array_equal(run(jnp.array([0, 7, 20])), expected)


def test_gradients_are_those_of_the_oracle(rng, qkv):
    (out, lse), pullback = jax.vjp(lambda *x: pj.attention(*x, EACH, return_lse=True), *qkv)
    dout, dlse = rng.standard_normal(out.shape), rng.standard_normal(lse.shape)
    q, k, v, out, lse = map(np.asarray, (*qkv, out, lse))
    expected = reference.backward(dout, q, k, v, out, lse, EACH, dlse=dlse)
    for gradient, other in zip(pullback((jnp.asarray(dout), jnp.asarray(dlse))), expected, strict=False):
        np.testing.assert_allclose(gradient, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("jit", [False, True])
def test_gradients_of_all_terms(rng, qkv, jit):
    from jax.test_util import check_grads

    terms = biases(rng)
    slopes = terms.pop("slopes")

    def run(q, k, v, offset_bias, global_bias):
        options = {"slopes": slopes, "softcap": 1.5, "dropout": 0.2, "dropout_seed": 5}
        return loss(q, k, v, offset_bias=offset_bias, global_bias=global_bias, **options)

    arguments = [*qkv, *map(jnp.asarray, terms.values())]
    check_grads(jax.jit(run) if jit else run, arguments, order=1, modes=["rev"], eps=1e-4)


def test_vmap_and_jacrev(rng):
    q, k = jnp.asarray(rng.standard_normal((2, 3, 1, 4, 11, 4)))
    v = jnp.asarray(rng.standard_normal((1, 4, 11, 4)))
    bias = jnp.asarray(rng.standard_normal((3, 4, 11)))
    dropped = {"dropout": 0.3, "dropout_seed": 3}
    for options, mapped in (({}, {}), (dropped, {}), ({}, {"offset_bias": bias}), ({"q_start": 2}, {})):

        def run(q, k, v, mapped, options=options):
            return loss(q, k, v, **options, **mapped)

        gradient = jax.grad(run, argnums=(0, 1, 2, 3))
        got = jax.jit(jax.vmap(gradient, in_axes=(0, 0, None, 0)))(q, k, v, mapped)
        each = [gradient(q[i], k[i], v, {name: x[i] for name, x in mapped.items()}) for i in range(3)]
        expected = jax.tree.map(lambda *x: jnp.stack(x), *each)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), got, expected)
    twice = jax.vmap(jax.vmap(lambda q: pj.attention(q, v, v, OTHER)))(q[None])
    np.testing.assert_array_equal(twice[0, 1], pj.attention(q[1], v, v, OTHER))
    jacobian = jax.jacrev(lambda q: pj.attention(q, k[0], v, PATTERN)[0, 1, 3])(q[0])
    one = jax.grad(lambda q: pj.attention(q, k[0], v, PATTERN)[0, 1, 3, 2])(q[0])
    np.testing.assert_allclose(jacobian[2], one, rtol=1e-12)


def test_no_gradient_of_slopes_is_asked_for(qkv):
    slopes = jnp.ones(4)
    for run in (loss, jax.jit(loss)):
        with pytest.raises(ValueError, match=r"^slopes: expected an array of which no gradient is asked"):
            jax.grad(lambda slopes, run=run: run(*qkv, slopes=slopes))(slopes)
        assert jax.grad(run)(*qkv, slopes=slopes).shape == qkv[0].shape


def test_out_or_lse_alone(qkv):
    both = [
        jax.grad(lambda q, i=i: pj.attention(q, *qkv[1:], PATTERN, return_lse=True)[i].sum())(qkv[0])
        for i in (0, 1)
    ]
    alone = jax.grad(lambda q: pj.attention(q, *qkv[1:], PATTERN).sum())(qkv[0])
    assert np.array_equal(both[0], alone) and not np.allclose(both[0], both[1])


def test_second_derivatives_and_forward_mode_raise(qkv):
    with pytest.raises(ValueError, match="callbacks do not support JVP"):
        jax.grad(lambda q: jax.grad(loss)(q, *qkv[1:]).sum())(qkv[0])
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(loss, qkv, qkv)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_narrow_dtypes(rng, dtype):
    jax.config.update("jax_enable_x64", False)
    q, k, v = jnp.asarray(rng.standard_normal((3, 1, 2, 30, 8)), dtype)
    out, lse = jax.jit(lambda *x: pj.attention(*x, PATTERN, return_lse=True))(q, k, v)
    wide = [np.asarray(x.astype("float32")) for x in (q, k, v)]
    expected = pa.attention(*wide, PATTERN)
    assert out.dtype == dtype and np.array_equal(out, jnp.asarray(expected[0]).astype(dtype))
    assert lse.dtype == "float32" and np.array_equal(lse, expected[1])
    assert jax.grad(lambda q: pj.attention(q, k, v, PATTERN).astype("float32").sum())(q).dtype == dtype


def test_a_key_is_a_seed(qkv):
    key = jax.random.key(7)
    high, low = jax.random.key_data(key).tolist()
    by_key = pj.attention(*qkv, PATTERN, dropout=0.4, dropout_seed=jax.random.key_data(key))
    assert np.array_equal(by_key, pj.attention(*qkv, PATTERN, dropout=0.4, dropout_seed=2**32 * high + low))
    with pytest.raises(ValueError, match=r"^dropout_seed: expected shape \(2,\) of uint32"):
        pj.attention(*qkv, PATTERN, dropout=0.4, dropout_seed=np.array(3))


def test_errors_name_the_argument(qkv):
    q, k, v = qkv
    with pytest.raises(TypeError, match=r"^v: expected the dtype of q, float64, got float32"):
        pj.attention(q, k, v.astype("float32"), PATTERN)
    with pytest.raises(ValueError, match=r"^k: expected a number of heads"):
        pj.attention(q, q[:, :3], q[:, :3], PATTERN)
    with pytest.raises(TypeError, match=r"^pattern: expected a Pattern or one per head, got 'primes'"):
        pj.attention(q, k, v, "primes")
    with pytest.raises(ValueError, match=r"^pattern: expected one Pattern or 4"):
        pj.attention(q, k, v, EACH[:3])
    with pytest.raises(ValueError, match=r"^softcap: expected a number above 0"):
        jax.jit(lambda q: pj.attention(q, k, v, PATTERN, softcap=0.0))(q)
    with pytest.raises(Exception, match=r"cu_seqlens: expected to run from 0 to 13"):
        pj.attention(q[:1], k[:1], v[:1], PATTERN, cu_seqlens=[0, 5])
