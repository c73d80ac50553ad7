import numpy as np
import pytest

import primeattn as pa
from primeattn.bench import peers
from primeattn.bench.peers import PEERS, GivenUp, Inputs, Unavailable
from primeattn.kernels import reference

N = 40
CAUSAL = pa.Pattern(None, window=N)
PATTERNS = [
    pa.Pattern("primes", window=3, global_tokens=2),
    pa.Pattern("squares"),
    pa.Pattern([3, 7, 30], window=1, global_tokens=5),
    pa.Pattern(None, window=2, global_tokens=N + 1),
    pa.Pattern("mian_chowla", window=N, global_tokens=1),
]


@pytest.fixture
def inputs(rng):
    return Inputs.draw(rng, 2, 3, N, 8, "float32")


def exact(inputs, pattern):
    q, k, v, dout = inputs.q, inputs.k, inputs.v, inputs.dout
    out, lse = reference.forward(q, k, v, pattern)
    return out, *reference.backward(dout, q, k, v, out, lse, pattern)


def check(peer, inputs, pattern, backward, computed=None):
    if peer.startswith("torch"):
        pytest.importorskip("torch")
    call = PEERS[peer](inputs, pattern, backward)
    wanted = exact(inputs, pattern if computed is None else computed)[: 4 if backward else 1]
    for _ in range(2):  # a call leaves nothing behind that the next one trips over
        got = call()
        assert len(got) == len(wanted)
        for array, right in zip(got, wanted, strict=True):
            np.testing.assert_allclose(np.asarray(array), right, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("peer", ["primeattn", "torch mask", "dense NumPy", "scalar loop"])
def test_peers_compute_the_pattern(peer, pattern, inputs):
    check(peer, inputs, pattern, False)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("peer", ["primeattn", "torch mask", "dense NumPy"])
def test_peers_compute_the_gradients(peer, pattern, inputs):
    check(peer, inputs, pattern, True)


@pytest.mark.parametrize("backward", [False, True])
def test_torch_causal_ignores_the_pattern(backward, inputs):
    check("torch causal", inputs, PATTERNS[1], backward, computed=CAUSAL)


def test_all_peers_read_the_same_memory(inputs):
    torch = pytest.importorskip("torch")
    q, k, v, dout = inputs.torch(torch, True)
    inputs.q[0, 0, 0, 0] = 42
    assert float(q[0, 0, 0, 0].detach()) == 42
    assert q.requires_grad and k.requires_grad and v.requires_grad and not dout.requires_grad


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_has_the_pattern(inputs, monkeypatch):
    pytest.importorskip("torch")
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(peers, "compiled_flex", lambda *key: flex_attention)  # compiling takes half a minute
    for pattern in PATTERNS:
        check("FlexAttention", inputs, pattern, False)


def test_flex_attention_says_why_not(inputs, monkeypatch):
    torch = pytest.importorskip("torch")
    with pytest.raises(Unavailable, match="no backward on the CPU") as reason:
        PEERS["FlexAttention"](inputs, PATTERNS[0], True)
    assert not isinstance(reason.value, GivenUp)

    def broken(function, dynamic):
        raise RuntimeError("no C++ compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", broken)
    peers.compiled_flex.cache_clear()
    with pytest.raises(GivenUp, match=r"^torch.compile failed: no C\+\+ compiler$"):
        PEERS["FlexAttention"](inputs, PATTERNS[0], False)

    monkeypatch.setattr(torch, "compile", lambda function, dynamic: lambda *qkv, block_mask: qkv[0])
    monkeypatch.setattr(peers, "COMPILE_LIMIT", 0)
    with pytest.raises(GivenUp, match="s to compile"):
        PEERS["FlexAttention"](inputs, PATTERNS[0], False)
    peers.compiled_flex.cache_clear()


def test_scalar_loop_is_forward_only(inputs):
    with pytest.raises(Unavailable, match="forward only"):
        PEERS["scalar loop"](inputs, PATTERNS[0], True)


@pytest.mark.parametrize("peer", ["torch causal", "torch mask", "FlexAttention"])
def test_without_torch(peer, inputs, monkeypatch):
    monkeypatch.setattr(peers, "find_torch", lambda: None)
    with pytest.raises(GivenUp, match="torch is not installed"):
        PEERS[peer](inputs, PATTERNS[0], False)


def test_first_row():
    inputs = Inputs.draw(np.random.default_rng(0), 2, 3, 5, 4, "float64").first_row()
    assert inputs.n == 1 and inputs.q.shape == (2, 3, 1, 4) and inputs.dout.flags.c_contiguous
    assert inputs.v.dtype == np.float64
