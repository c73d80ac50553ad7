import numpy as np
import pytest

import primeattn as pa


@pytest.mark.usefixtures("one_head_at_a_time")
@pytest.mark.parametrize("global_tokens", [0, 2, 150])
def test_rows_have_the_same_bits_wherever_queries_are_cut(rng, global_tokens):
    pattern = pa.Pattern("primes", window=3, global_tokens=global_tokens)
    n = 1500  # 240 offsets, in more than one tile
    q, k, v, dout = rng.standard_normal((4, 1, 1, n, 8), dtype=np.float32)
    out, lse = pa.attention(q, k, v, pattern)
    dq, dk, dv = (np.empty_like(q) for _ in range(3))
    pa.sparse_index_kernel_backward(dq, dk, dv, dout, q, k, v, out, lse, pattern)
    for begin, end in ((0, 100), (100, 203), (203, 740), (740, 741), (741, n)):
        rows, keys = np.s_[:, :, begin:end], np.s_[:, :, :end]
        part, part_lse = pa.attention(q[rows], k[keys], v[keys], pattern, q_start=begin)
        np.testing.assert_array_equal(part, out[rows])
        np.testing.assert_array_equal(part_lse, lse[rows])
        grads = np.empty_like(q[rows]), np.empty_like(k[keys]), np.empty_like(v[keys])
        arrays = dout[rows], q[rows], k[keys], v[keys], part, part_lse
        pa.sparse_index_kernel_backward(*grads, *arrays, pattern, q_start=begin)
        np.testing.assert_array_equal(grads[0], dq[rows])
