"""Masks of torch against ``Pattern.to_dense``."""

import subprocess
import sys

import numpy as np
import pytest

import primeattn as pa

torch = pytest.importorskip("torch")
pt = pytest.importorskip("primeattn.torch")
flex = pytest.importorskip("torch.nn.attention.flex_attention")

PATTERNS = [
    pa.Pattern("primes", window=3, global_tokens=2),
    pa.Pattern("squares"),
    pa.Pattern(None, window=40, global_tokens=70),
    pa.Pattern([5, 77]),
]


@pytest.mark.parametrize("wheel", [1, 6, None])
@pytest.mark.parametrize("n, size", [(1, 128), (9, 2), (100, 128), (128, 32), (300, 32)])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_block_mask(pattern, n, size, wheel):
    mask, order = pattern.to_flex(n, wheel=wheel, block_size=size), pattern.wheel_permutation(n, wheel)
    dense = torch.tensor(pattern.to_dense(n)[np.ix_(order, order)])
    assert torch.equal(flex.create_mask(mask.mask_mod, 1, 1, n, n, device="cpu")[0, 0], dense)
    expected = flex.create_block_mask(mask.mask_mod, None, None, n, n, device="cpu", BLOCK_SIZE=size)
    assert mask.shape == expected.shape and mask.BLOCK_SIZE == expected.BLOCK_SIZE
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(mask, name), getattr(expected, name))
    for name in ("kv_indices", "full_kv_indices"):
        counts = getattr(mask, name.replace("indices", "num_blocks"))[0, 0].tolist()
        for count, got, other in zip(
            counts, getattr(mask, name)[0, 0], getattr(expected, name)[0, 0], strict=True
        ):
            assert torch.equal(got[:count], other[:count])


def test_some_blocks_are_full():
    assert pa.Pattern(None, window=99).to_flex(128, block_size=32).full_kv_num_blocks.sum() > 0


@pytest.mark.parametrize("wheel", [1, 6])
def test_flex_attention_with_the_mask_is_ours(wheel):
    pattern, n = PATTERNS[0], 300
    order = torch.tensor(pattern.wheel_permutation(n, wheel))
    q, k, v = torch.randn(3, 2, 3, n, 16, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(q)
    mask = pattern.to_flex(n, wheel=wheel)
    out[:, :, order] = flex.flex_attention(q[:, :, order], k[:, :, order], v[:, :, order], block_mask=mask)
    torch.testing.assert_close(out, pt.attention(q, k, v, pattern), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 100])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_sparse_tensor(pattern, n):
    mask = pattern.to_torch_csr(n)
    assert mask.layout == torch.sparse_csr and mask.dtype == torch.bool
    assert np.array_equal(mask.to_dense(), pattern.to_dense(n))


def test_errors():
    with pytest.raises(ValueError, match=r"^n: expected an integer >= 1, got 0"):
        PATTERNS[0].to_flex(0)
    with pytest.raises(ValueError, match=r"^wheel: expected an integer >= 1, got 0"):
        PATTERNS[0].to_flex(5, wheel=0)
    with pytest.raises(ValueError, match=r"^block_size: expected an integer >= 1, got 0"):
        PATTERNS[0].to_flex(5, block_size=0)
    with pytest.raises(ValueError, match=r"^n: expected at most \d+ pairs"):
        PATTERNS[0].to_torch_csr(10**6)


def test_torch_is_imported_at_first_use_only():
    code = (
        "import sys, primeattn as pa; p = pa.Pattern('primes'); dir(pa); assert 'torch' not in sys.modules;"
        "p.to_torch_csr(5); assert 'torch' in sys.modules; assert pa.torch.attention"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
