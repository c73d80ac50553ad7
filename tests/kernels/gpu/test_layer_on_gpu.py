"""SparseIndexAttention(device="cuda"), on the emulator."""

import numpy as np
import pytest
from emulator import emulated

import primeattn as pa

PATTERN = pa.Pattern("primes", window=2, global_tokens=1)
TERMS = {"offset_bias": 9, "alibi": True, "softcap": 2.0, "dropout": 0.2}


@pytest.mark.parametrize("workspace", [lambda: None, pa.Workspace], ids=["fresh", "workspace"])
@pytest.mark.parametrize(
    ("segments", "terms"),
    [
        pytest.param(None, {}, id="whole"),
        pytest.param([0, 9, 30], {}, id="segments"),
        pytest.param(None, TERMS, id="terms", marks=pytest.mark.slow),  # the CPU's are compiled for it
    ],
)
def test_same_numbers_as_on_the_cpu(workspace, segments, terms, rng, monkeypatch):
    workspace = workspace()
    options = {"heads": 4, "kv_heads": 2, "bias": True} | terms
    x, dy = rng.standard_normal((2, 1, 30, 16))
    results = []
    with emulated(monkeypatch) as machine:
        for device in ("cpu", "cuda"):
            layer = pa.SparseIndexAttention(16, PATTERN, **options, device=device)
            ps, st = pa.setup(np.random.default_rng(1), layer, dtype=np.float64)
            st = pa.with_segments(st, segments)
            y, st, pullback = layer.pullback(x, ps, st, workspace=workspace)
            dx, dps = pullback(dy)
            results.append(
                [y.copy(), dx.copy(), *(a.copy() for name in ("Wi", "Wo") for a in dps[name].values())]
                + [dps[name].copy() for name in ("offset_bias", "global_bias") if name in dps]
            )
        launched = ["forward", "backward_queries", "backward_keys", *["bias_gradients"] * (2 if terms else 0)]
        assert [launch[0] for launch in machine.launches] == launched
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_a_step_with_a_workspace_allocates_no_device_memory(rng, monkeypatch):
    layer, ws = pa.PrimeSelfAttention(16, heads=2, device="cuda"), pa.Workspace()
    ps, st = pa.setup(rng, layer)
    x = rng.standard_normal((1, 20, 16), dtype=np.float32)
    with emulated(monkeypatch) as machine:
        counts = []
        for _ in range(3):
            _, _, pullback = layer.pullback(x, ps, st, workspace=ws)
            pullback(x)
            ws.reset()
            counts.append(len(machine.memory.buffers))
    assert counts[0] == counts[1] == counts[2]


def test_without_a_gpu_the_error_says_what_to_install(rng):
    layer = pa.PrimeSelfAttention(16, heads=2, device="cuda")
    ps, st = pa.setup(rng, layer)
    with pytest.raises(RuntimeError, match=r"device: no GPU can be used here: .*; install primeattn"):
        layer(np.zeros((1, 4, 16), np.float32), ps, st)
    with pytest.raises(ValueError, match="device must be None, 'cpu', 'auto' or 'cuda', got 'gpu'"):
        pa.PrimeSelfAttention(16, device="gpu")
