import numpy as np
import pytest

from primeattn.compiled import blas, parallel


def test_one_thread_within_the_block_and_as_before_after_it():
    get, set_ = blas.openblas_threads()
    before = get()
    if before == 0:
        pytest.skip("NumPy here is built on another BLAS than OpenBLAS")
    set_(2)
    try:
        with blas.one_blas_thread():
            assert get() == 1
            np.testing.assert_array_equal(np.eye(3) @ np.eye(3), np.eye(3))
        assert get() == 2
        with pytest.raises(KeyError), blas.one_blas_thread():
            raise KeyError
        assert get() == 2
    finally:
        set_(before)


def test_blocks_within_and_beside_each_other():
    get, set_ = blas.openblas_threads()
    before = get()
    if before == 0:
        pytest.skip("NumPy here is built on another BLAS than OpenBLAS")
    set_(2)
    first, second = blas.one_blas_thread(), blas.one_blas_thread()
    try:
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert get() == 1
        second.__exit__(None, None, None)
        assert get() == 2
    finally:
        set_(before)


def test_another_blas_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(np.linalg._umath_linalg, "__file__", "/no/such/library")
    for name in ("openblas", "_one_thread"):
        monkeypatch.setattr(blas, name, getattr(blas, name).__wrapped__)
    assert blas.openblas() is None and blas.openblas_threads()[0]() == 0
    with blas.one_blas_thread():
        np.testing.assert_array_equal(np.eye(3) @ np.eye(3), np.eye(3))
    monkeypatch.setattr(parallel, "openblas", blas.openblas)
    out = np.empty((2, 3))
    parallel.product(np.ones((2, 2)), np.ones((2, 3)), out)
    assert (out == 2).all()


def test_core_says_where_openblas_has_shorter_vectors_than_the_processor(monkeypatch):
    known = blas.openblas()
    if known is None:
        pytest.skip("NumPy uses another BLAS")
    for core, vector, told in (("Haswell", 32, False), ("Haswell", 64, True), ("SkylakeX", 64, False)):
        monkeypatch.setattr(blas, "openblas", lambda core=core: known._replace(core=core))
        text = blas.openblas_core(vector)
        assert text.startswith(core) and ("OPENBLAS_CORETYPE" in text) == told
    monkeypatch.setattr(blas, "openblas", lambda: None)
    assert blas.openblas_core(64) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products_of_one_row_take_every_layout(dtype, rng):
    """Of the row, of the matrix, and the transpose of either, as layers and their pullbacks have them."""
    wide, tall = rng.standard_normal((37, 50)).astype(dtype), rng.standard_normal((50, 37)).astype(dtype)
    column, rows = rng.standard_normal((37, 3)).astype(dtype), rng.standard_normal((4, 37)).astype(dtype)
    for a in (rows[:1], rows[2:3], column[:, 1:2].T, column[:, :1].T, rows[:1, ::-1]):
        for b in (wide, tall.T, wide[:, 3:20], tall[3:20].T, wide[:, :1], wide[:, ::2]):
            out = np.full((1, b.shape[1]), np.nan, dtype)
            parallel.product(a, b, out)
            np.testing.assert_allclose(out, a @ b, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-12)
