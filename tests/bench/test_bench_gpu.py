"""What of the benchmark on a GPU needs none."""

import json

import numpy as np
import pytest

import primeattn as pa
from primeattn import bench, plot
from primeattn.bench import gpu, gpu_device, gpu_peers, gpu_report, peers
from primeattn.bench.cpu import Shape
from primeattn.bench.gpu_device import EventTurn, numbers, stored
from primeattn.bench.gpu_peers import FLEX, SDPA, flex_blocks
from primeattn.kernels.gpu import device

OURS = "primeattn gather"


class FakeGpu:
    """A GPU on which calls take the time they say, behind what was enqueued before; the host has its own."""

    def __init__(self, launch=1e-4):
        self.host, self.done, self.launch, self.held, self.calls, self.waits = 0.0, 0.0, launch, [], 0, 0.0
        self.processors = 10

    def enqueue(self, seconds):
        self.host += self.launch
        self.waits += max(self.host - self.done, 0)  # the GPU has nothing to do
        self.done = max(self.done, self.host) + seconds
        self.calls += 1

    def taking(self, seconds):
        return lambda: self.enqueue(seconds)

    def chains(self, blocks, threads, iterations):
        self.enqueue(2 * gpu_device.CHAINS * blocks * threads * iterations / 1e12)  # at 1 TFLOP/s

    def hold(self, seconds):
        self.held.append(seconds)
        self.done = max(self.done, self.host) + seconds

    def marked(self, call):
        before = max(self.done, self.host)  # as events are recorded where the queue ends
        call()
        return before, self.done

    def elapsed(self, before, after):
        return after - before

    def synchronize(self):
        self.host = max(self.host, self.done)

    def clock(self):
        self.synchronize()
        return self.host

    def describe(self):
        return {"name": "NVIDIA Fake 9 (80 GB)", "capability": "9.0", "processors": 10, "memory_gb": 80.0}


@pytest.mark.parametrize(("seconds", "count"), [(1e-5, 50), (4e-4, 24), (2e-3, 5), (0.3, 1)])
def test_a_turn_has_the_time_of_kernels_alone(seconds, count):
    """The launch of a call takes the host longer than the GPU needs, and yet does not count."""
    device = FakeGpu(launch=5e-4)
    times = EventTurn(device, wall=lambda: device.host)(device.taking(seconds))
    assert times == [pytest.approx(seconds)] * len(times)
    assert len(times) == pytest.approx(count, abs=1) and device.calls == len(times) + 1


def test_without_the_hold_the_host_would_count():
    device = FakeGpu(launch=5e-4)
    device.hold = lambda seconds: None
    assert EventTurn(device, wall=lambda: device.host)(device.taking(1e-5))[0] > 4e-4


def test_interleaved_turns_take_their_times_from_the_turn():
    device, turns = FakeGpu(), []

    def turn(call, clock):
        turns.append(call)
        return [2.0, 4.0]

    a, b = device.taking(0.1), device.taking(0.1)
    timings = peers_time({"a": a, "b": b}, device, turn)
    assert timings["a"].median == 3.0 and timings["a"].calls == 10
    assert turns[:4] == [a, b, b, a]


def peers_time(calls, device, turn):
    measured = gpu.GpuPeers(device, 0.5, lambda: False)
    measured.turn = turn
    return measured.time(calls)


def test_ceilings(monkeypatch):
    device = FakeGpu()
    monkeypatch.setattr(gpu_device, "find_torch", lambda: None)

    class Memory:
        def __init__(self, nbytes, dtype):
            self.nbytes = nbytes

        def copy_to_device(self, other):
            device.enqueue(2 * self.nbytes / 3e12)

    monkeypatch.setattr(gpu_device, "cuda", type("cuda", (), {"device_array": Memory}))
    found = gpu_device.ceilings(device, EventTurn(device, wall=lambda: device.host))
    assert found["copy_memory_gb_per_s"] == pytest.approx(3000)
    assert found["copy_cache_gb_per_s"] == pytest.approx(3000)
    assert found["float32_gflops"] == pytest.approx(1000)
    assert found["float16_matmul_gflops"] is None and found["bfloat16_matmul_gflops"] is None


@pytest.mark.parametrize("storage", ["float64", "float32", "float16", "bfloat16"])
def test_stored_numbers_are_rounded_to_nearest_even(storage, rng):
    array = rng.standard_normal((3, 5))
    bits = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}[storage]
    seen = numbers(stored(array, storage))
    assert np.all(np.abs(seen - array) <= 2.0**-bits * np.abs(array) * 1.001) and seen.dtype == np.float64
    torch = peers.find_torch()
    if torch is not None:
        wanted = torch.from_numpy(array.astype(np.float32)).to(getattr(torch, storage)).double().numpy()
        assert np.array_equal(numbers(stored(array.astype(np.float32), storage)), wanted)
    half = 1 + np.array([1, 3]) * 2.0**-bits  # between two numbers
    assert np.array_equal(numbers(stored(half, storage)), [1, 1 + 4 * 2.0**-bits]) or storage == "float64"
    assert np.isnan(numbers(stored(np.full(1, np.nan), storage)))[0]


BLOCKED = [
    pa.Pattern("primes", window=3, global_tokens=2),
    pa.Pattern("squares"),
    pa.Pattern("mian_chowla", window=40, global_tokens=37),
    pa.Pattern([100], window=0),
]


@pytest.mark.parametrize("pattern", BLOCKED, ids=str)
@pytest.mark.parametrize("n", [128, 120, 16, 1])
def test_blocks_of_flex_attention(n, pattern):
    block, mask = 16, pattern.to_dense(n)
    counts, columns, full_counts, full_columns = (a[0, 0] for a in flex_blocks(pattern, n, block))
    for r in range(-(-n // block)):
        rows = slice(r * block, (r + 1) * block)
        parts = [mask[rows, c * block : (c + 1) * block] for c in range(len(counts))]
        partial, full = set(columns[r, : counts[r]]), set(full_columns[r, : full_counts[r]])
        assert {c for c, part in enumerate(parts) if part.any()} <= partial | full
        assert not partial & full and all(parts[c].all() for c in full)
        if n % block == 0:  # no block more than needed
            assert full == {c for c, part in enumerate(parts) if part.all()}
            assert partial | full == {c for c, part in enumerate(parts) if part.any()}


def test_blocks_are_those_of_torch():
    torch = pytest.importorskip("torch")
    from torch.nn.attention.flex_attention import BlockMask, create_block_mask

    for pattern in BLOCKED:
        visible = peers.flex_mask(torch, pattern, 512, "cpu")
        blocks = [torch.from_numpy(a) for a in flex_blocks(pattern, 512)]
        ours = BlockMask.from_kv_blocks(*blocks, 128, visible, seq_lengths=(512, 512))
        theirs = create_block_mask(visible, None, None, 512, 512, device="cpu")
        assert torch.equal(ours.to_dense(), theirs.to_dense())
        assert torch.equal(ours.full_kv_num_blocks, theirs.full_kv_num_blocks)
        assert torch.equal(ours.full_q_num_blocks, theirs.full_q_num_blocks)


def test_what_fails_at_its_first_call_is_unavailable(monkeypatch):
    monkeypatch.setattr(gpu_peers, "_synchronize", lambda: None)

    def broken():
        raise RuntimeError("No available kernel. Aborting execution.\nand more")

    with pytest.raises(peers.Unavailable, match=r"^RuntimeError: No available kernel. Aborting execution.$"):
        gpu_peers._tried(broken)
    call = lambda: 3  # noqa: E731
    assert gpu_peers._tried(call) is call


@pytest.fixture
def fake(monkeypatch):
    """A GPU that runs nothing: seconds of each peer in a dict, or why it is unavailable."""
    seconds = {OURS: 1e-3, **dict.fromkeys(SDPA, 4e-3), FLEX: 2e-3}
    device = FakeGpu()

    def peer(name):
        def prepare(inputs, pattern, backward):
            found = seconds[name]
            if isinstance(found, str):
                raise peers.Unavailable(found)
            return device.taking(found * (3 if backward else 1))

        return prepare

    monkeypatch.setattr(gpu, "Device", lambda: device)
    monkeypatch.setattr(gpu, "EventTurn", lambda device: EventTurn(device, wall=lambda: device.host))
    monkeypatch.setattr(gpu, "GPU_PEERS", {name: peer(name) for name in seconds})
    monkeypatch.setattr(gpu.GpuPeers, "draw", lambda self, shape: None)
    ceilings = {"copy_memory_gb_per_s": 3000.0, "float32_gflops": 5e4, "bfloat16_matmul_gflops": 5e5}
    monkeypatch.setattr(gpu, "ceilings", lambda *arguments: ceilings)
    return seconds


def test_the_grid_begins_with_what_is_asked_for_most():
    shapes = list(gpu.grid(gpu.LENGTHS, gpu.HEADS, gpu.HEAD_DIMS, gpu.DTYPES))
    assert len(set(shapes)) == len(shapes) == 3 * 2 * 2 * 3 * 2
    assert shapes[:3] == [
        Shape(1, 16, 65536, 64, "bfloat16", False),
        Shape(1, 16, 65536, 64, "bfloat16", True),
        Shape(1, 16, 65536, 64, "float32", False),
    ]
    assert shapes[-1] == Shape(1, 1, 4096, 128, "float16", True)


def test_rows_and_what_they_reach_of_the_ceilings(fake):
    fake["SDPA flash"], fake["SDPA cuDNN"] = "no float32", 3e-3
    saved = []
    results = gpu.run(
        n=[4096], heads=[2], head_dims=[64], dtypes=["bfloat16"], save=lambda r: saved.append(1)
    )
    rows = {(row["peer"], row["sequence"], row["pass"]): row for row in results["rows"]}
    assert len(rows) == 2 * (3 + 3 + 3) and len(saved) == 2 and results["left_out"] == []
    ours, dense = rows[OURS, "squares", "forward"], rows["SDPA cuDNN", None, "forward"]
    pairs = 2 * pa.Pattern("squares", window=3, global_tokens=2).num_pairs(4096)
    assert ours["pairs"] == pairs and dense["pairs"] == 2 * 4096 * 4097 // 2
    assert ours["speedup"] == pytest.approx(3)  # the fastest SDPA
    assert ours["gb_per_s"] == pytest.approx(2e-9 * 2 * 64 * pairs / 1e-3)
    assert ours["of_copy"] == pytest.approx(ours["gb_per_s"] / 3000)
    assert ours["of_fma"] == pytest.approx(4e-9 * 64 * pairs / 1e-3 / 5e4)
    assert dense["of_matmul"] == pytest.approx(4e-9 * 64 * dense["pairs"] / 3e-3 / 5e5)
    assert rows["SDPA flash", None, "forward"]["skipped"] == "no float32"
    assert rows[OURS, "primes", "forward+backward"]["median_s"] == pytest.approx(3e-3)
    assert results["device"]["name"] == "NVIDIA Fake 9 (80 GB)"


def test_no_peer_is_too_long_for_a_gpu(fake):
    results = gpu.run(n=[65536], heads=[1], head_dims=[64], dtypes=["bfloat16"])
    assert len(results["rows"]) == 2 * 9 and not any("skipped" in row for row in results["rows"])


@pytest.mark.slow
def test_time_is_kept(fake):
    now = iter(range(0, 10000, 20))
    results = gpu.run(n=[64, 128], heads=[1], head_dims=[64], limit=600, clock=lambda: next(now))
    done = {(row["n"], row["dtype"], row["pass"]) for row in results["rows"]}
    assert 1 <= len(done) < 12 and len(done) + len(results["left_out"]) == 12
    assert results["left_out"][-1] == {
        "batch": 1, "heads": 1, "n": 64, "head_dim": 64, "dtype": "float16", "backward": True,
    }  # fmt: skip
    flex = [row.get("skipped") for row in results["rows"] if row["peer"] == FLEX]
    assert flex[0] is None and flex[-1] == "left out: it takes long to compile, and little time was left"


@pytest.mark.parametrize(("limit", "compiles"), [(None, True), (240, True), (119, False)])
def test_no_long_compilation_is_started_that_would_not_end_in_time(fake, limit, compiles):
    sizes = {"n": [64], "heads": [1], "head_dims": [64], "dtypes": ["float16"]}
    flex = [row for row in gpu.run(**sizes, limit=limit)["rows"] if row["peer"] == FLEX]
    assert all(("median_s" in row) is compiles for row in flex) and flex


@pytest.mark.slow
def test_table_and_figure(fake, tmp_path):
    fake["SDPA flash"] = "no flash"
    results = gpu.run(n=[256, 1024], heads=[1, 16], head_dims=[64], dtypes=["bfloat16", "float32"])
    lines = gpu_report.tables(results).splitlines()
    assert lines[0] == "NVIDIA Fake 9 (80 GB)" and "- bfloat16_matmul_gflops: 500000" in lines
    at = lines.index("forward, bfloat16: milliseconds, median ± half the distance of the quartiles")
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[at + 1 : at + 5]]
    assert cells[0][:7] == ["shape", "sequence", "kernel", "primeattn", "SDPA cuDNN", "SDPA efficient", FLEX]
    assert cells[1][:8] == [
        "1x16x1024x64", "primes", "gather", "1.00 ±0%", "4.00 ±0%", "4.00 ±0%", "2.00 ±0%", "4.00"
    ]  # fmt: skip
    assert [row[1] for row in cells[1:]] == ["primes", "squares", "mian_chowla"]
    assert "- SDPA flash (bfloat16), SDPA flash (float32): no flash" in lines
    left, right = gpu_report.figure(results).axes
    drawn = {line.get_label(): line.get_xdata() for line in left.lines}
    assert list(drawn) == [
        "SDPA cuDNN", "SDPA efficient", "FlexAttention, primes", "primeattn, primes", "primeattn, squares",
        "primeattn, mian-chowla",
    ]  # fmt: skip
    assert all(list(x) == [256, 1024] for x in drawn.values())
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert labels[:3] == ["primes", "primes, forward + backward", "primes, float32"]
    plot.save(gpu_report.figure(results), tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").stat().st_size > 10_000


def test_the_fastest_kernel_is_drawn(fake):
    rows = [
        {"peer": peer, "sequence": "primes", "pass": "forward", "dtype": "bfloat16", "n": n, "median_s": s}
        for peer, n, s in ((OURS, 8, 2.0), (OURS, 4, 1.0), ("other", 8, 0.5), (OURS, 8, 1.5))
    ]
    assert [row["median_s"] for row in gpu_report._fastest(rows, "primes")("forward", "bfloat16")] == [1, 1.5]


def test_command_writes_json_and_figure_with_the_name_of_the_device(fake, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(device, "problem", lambda: None)
    options = ["--n", "128", "--heads", "1", "--head-dims", "64", "--dtypes", "float16"]
    assert bench.main(["gpu", *options, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("NVIDIA Fake 9 (80 GB)\n")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert found == ["data/gpu_nvidia_fake_9_80_gb.json", "gpu_nvidia_fake_9_80_gb.png"]
    written = json.loads((tmp_path / found[0]).read_text())
    assert written["command"].endswith("--n 128 --head-dims 64 --dtypes float16 --heads 1")
    assert written["rows"] and written["versions"].keys() >= {"numba", "numba-cuda", "torch"}


def test_without_a_gpu_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(device, "problem", lambda: "no driver")
    assert bench.main(["gpu", "--out", str(tmp_path)]) == 2
    printed, errors = capsys.readouterr()
    assert printed == "" and errors.count("\n") == 1 and "no GPU can be used here: no driver;" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n", "0"], "n: expected an integer >= 1, got 0"),
        (["--head-dims", "-4"], "head_dims: expected an integer >= 1, got -4"),
        (["--dtypes", "float8"], "dtypes: expected None or one of 'bfloat16', 'float32', 'float16', got"),
        (["--sequences", "prymes"], "sequence: expected one of"),
        (["--limit", "0"], "limit: expected a finite number of seconds above 0"),
        (["--budget", "nan"], "budget: expected a finite number of seconds above 0"),
    ],
)  # fmt: skip
def test_bad_input(options, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(device, "problem", lambda: None)
    monkeypatch.setattr(gpu, "Device", lambda: pytest.fail("touched the GPU"))
    assert bench.main(["gpu", *options, "--out", str(tmp_path)]) == 2
    assert f"error: {message}" in capsys.readouterr().err
