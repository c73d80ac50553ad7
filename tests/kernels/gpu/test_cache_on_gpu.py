"""Caches of layers with device="cuda", on the emulator: pieces of any length give what one call gives."""

from dataclasses import replace

import numpy as np
import pytest
from appending import appended
from emulator import Buffer, Machine, emulated

import primeattn as pa

PATTERNS = [
    pa.Pattern("primes", window=2, global_tokens=2),
    pa.Pattern("squares", global_tokens=9),
    pa.Pattern(None, window=3),
]


class Counting(Machine):
    """Counts copies of arrays to the GPU and back, and memory that is asked for there."""

    def __init__(self, seed):
        super().__init__(seed)
        self.copied, self.fetched, self.allocated = [], [], []

    def device_array(self, size, dtype):
        machine, buffer = self, super().device_array(size, dtype)
        self.allocated.append(buffer.nbytes)

        class Counted(Buffer):
            def copy_to_device(self, host, stream=0):
                machine.copied.append(host.nbytes)
                super().copy_to_device(host, stream)

            def copy_to_host(self, host, stream=0):
                machine.fetched.append(host.nbytes)
                super().copy_to_host(host, stream)

        return Counted(buffer.array, buffer.owner)


def random_layer(rng):
    heads = int(rng.choice([2, 4]))
    patterns = [PATTERNS[rng.integers(3)] for _ in range(heads)]
    return pa.SparseIndexAttention(
        8,
        patterns if rng.integers(2) else patterns[0],
        heads=heads,
        kv_heads=int(rng.choice([1, 2, heads])),
        head_dim=int(rng.choice([4, 6])),
        v_dim=[None, 3, 8][rng.integers(3)],
        rotary=[None, 100.0][rng.integers(2)],
        qk_norm=bool(rng.integers(2)),
        sinks=bool(rng.integers(2)),
        offset_bias=[None, 0, 9][rng.integers(3)],
        alibi=bool(rng.integers(2)),
        softcap=[None, 2.0][rng.integers(2)],
        device="cuda",
    )


def check_schedule(seed, dtype, monkeypatch):
    rng = np.random.default_rng(seed)
    layer = random_layer(rng)
    ps, st = pa.setup(rng, layer, dtype)
    ps = pa.tree.map(lambda p: (p + 0.1 * rng.standard_normal(p.shape)).astype(dtype), ps)
    batch, longest = int(rng.integers(1, 4)), int(rng.integers(1, 30))
    missing = rng.integers(0, longest, batch) * int(rng.integers(2))  # padding on the left
    x = rng.standard_normal((batch, longest, 8)).astype(dtype)
    parts, begin, workspace = [], 0, pa.Workspace() if rng.integers(2) else None
    with emulated(monkeypatch, seed=seed):
        cached = pa.with_cache(layer, st, batch, longest + int(rng.integers(9)), start=-missing, dtype=dtype)
        while begin < longest:
            end = min(begin + int(rng.choice([1, 1, 2, rng.integers(1, 15)])), longest)
            other = pa.copy_cache(cached) if rng.integers(4) == 0 else None
            y, cached = layer(x[:, begin:end], ps, cached, workspace=workspace)
            parts.append(y.copy())
            if other is not None:  # goes on in its own way
                layer(-x[:, begin:end], ps, other)
            begin = end
            if workspace is not None and rng.integers(2):
                workspace.reset()
    y = np.concatenate(parts, axis=1)
    on_cpu = replace(layer, device="cpu")
    for b in range(batch):
        alone, _ = on_cpu(x[b : b + 1, missing[b] :], ps, st)
        error, size = np.abs(y[b, missing[b] :] - alone[0]).max(), max(np.abs(alone).max(), 1)
        assert error <= (2e-6 if dtype == np.float32 else 1e-13) * size


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 40, 10))
def test_random_schedules_equal_one_call(first, monkeypatch):
    for seed in range(first, first + 10):
        check_schedule(seed, (np.float32, np.float64)[seed % 2], monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"offset_bias": 5, "alibi": True}, id="terms"),
    ],
)
def test_a_step_copies_its_own_tokens_and_allocates_nothing(options, rng, monkeypatch):
    layer = pa.SparseIndexAttention(8, PATTERNS[0], heads=2, kv_heads=1, device="cuda", **options)
    ps, st = pa.setup(rng, layer)
    x, steps = rng.standard_normal((3, 60, 8), dtype=np.float32), 50
    with emulated(monkeypatch, kind=Counting) as machine:
        cached, workspace = pa.with_cache(layer, st, 3, 60, start=[0, -4, 0]), pa.Workspace()
        _, cached = layer(x[:, :10], ps, cached, workspace=workspace)
        counted = machine.copied, machine.fetched, machine.allocated, machine.launches, machine.uploads
        for seen in counted:
            seen.clear()
        for step in range(10, 10 + steps):
            workspace.reset()
            _, cached = layer(x[:, step : step + 1], ps, cached, workspace=workspace)
    of_token = 3 * 4 * (8 + 2 * 4)  # three sequences, float32: q of two heads, and k and v of one
    others = 4 if options else 1  # offset_bias, global_bias and slopes
    assert len(machine.uploads) == 1  # the plan of single tokens
    assert machine.copied.count(of_token) == steps and len(machine.copied) == others * steps + 1
    assert len(machine.fetched) == 2 * steps  # out and lse
    assert [launch[:3] for launch in machine.launches] == [("append_rows", 3, 1), ("forward", 3, 2)] * steps
    # The plan, arrays of a token at the first step, and biases when the offsets are twice as many.
    assert len(machine.allocated) == 4 + (2 if options else 0)


@pytest.mark.slow
def test_generated_tokens_are_those_of_the_cpu(rng, monkeypatch):
    def model(device):
        options = {"heads": 2, "kv_heads": 1, "rotary": 100.0, "sinks": True, "device": device}
        blocks = [
            pa.SkipConnection(pa.Chain(pa.RMSNorm(8), pa.SparseIndexAttention(8, pattern, **options)))
            for pattern in PATTERNS[:2]
        ]
        return pa.Chain(pa.Embedding(20, 8, init=pa.nn.Normal(1.0)), *blocks, pa.Dense(8, 20))

    ps, st = pa.setup(rng, model("cpu"))
    prompts, found = [rng.integers(0, 20, n) for n in (5, 1, 9)], []
    with emulated(monkeypatch):
        for device in ("cpu", "cuda"):
            for options in ({"temperature": 0}, {"rng": 3, "context": 14, "slide": True}):
                found.append(pa.language_model.generate(model(device), ps, st, prompts, 12, **options))
    for of_cpu, of_gpu in zip(found[:2], found[2:], strict=True):
        assert np.array_equal(of_cpu, of_gpu)


def test_states_continue_once_on_the_device_they_were_made_for(rng, monkeypatch):
    layer = pa.PrimeSelfAttention(8, heads=2, device="cuda")
    on_cpu = replace(layer, device=None)
    ps, st = pa.setup(rng, layer)
    x = rng.standard_normal((1, 6, 8), dtype=np.float32)
    with emulated(monkeypatch):
        first = pa.with_cache(layer, st, 1, 6)
        _, second = layer(x[:, :4], ps, first)
        assert int(first["cache"]["used"]) == 0 and int(second["cache"]["used"]) == 4
        with pytest.raises(ValueError, match=r"continued already, with 4 more tokens; copy_cache\(st\)"):
            layer(x[:, :4], ps, first)
        with pytest.raises(ValueError, match="the cache was made for another device, not for None; see with"):
            on_cpu(x[:, 4:], ps, second)
        with pytest.raises(ValueError, match="the cache was made for another device, not for 'cuda'; see wi"):
            layer(x, ps, pa.with_cache(on_cpu, st, 1, 6))
        with pytest.raises(TypeError, match="the cache is float32 but x is float64; see dtype of with_cache"):
            layer(x.astype(float), pa.tree.map(lambda p: p.astype(float), ps), second)
        y, _ = layer(x[:, 4:], ps, second)  # what is refused changes nothing
        assert pa.without_cache(second) == st
    np.testing.assert_allclose(y, on_cpu(x, ps, st)[0][:, 4:], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_appended_where_they_belong_and_nowhere_else(dtype, rng, monkeypatch):
    assert np.array_equal(*appended(emulated(monkeypatch), dtype, rng))
