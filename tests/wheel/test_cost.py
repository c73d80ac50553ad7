"""How offsets are divided, what that costs, and which wheel is chosen."""

import json
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some

import primeattn as pa
from primeattn.bench import gpu_costs
from primeattn.wheel import cost, tables
from primeattn.wheel.cost import divide


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    n=some.integers(1, 300),
    modulus=some.sampled_from([1, 2, 6, 30]),
    name=some.sampled_from(["primes", "squares"]),
)
def test_a_division_is_of_all_offsets_by_residue(n, modulus, name):
    pattern = pa.Pattern(name, window=2)
    division = divide(pattern, n, modulus)
    assert np.array_equal(np.sort(np.concatenate([division.singles, division.regrouped])), pattern.offsets(n))
    rare = division.singles[division.singles > 2]
    assert not set(rare % modulus) & set(division.regrouped % modulus)


def test_tiles_are_counted_as_the_kernel_meets_them():
    for name, n, modulus, backward in (
        ("primes", 5000, 6, False), ("squares", 9000, 16, False), ("primes", 5000, 6, True),
    ):  # fmt: skip
        division = divide(pa.Pattern(name, window=3), n, modulus, 128, backward)
        tiling = tables.tiling(128, backward)
        has = tables.attended(division.regrouped, n, modulus)
        steps = tables.steps(has, tables.bitmask_words(n, modulus, tiling), tiling)
        blocks = tables.tiles(0, n, modulus, tiling.rows)
        met = 0
        for residue, first in blocks:
            begin = steps.begins[residue]
            at = steps.packed[begin : begin + steps.counts[residue]] >> 32
            met += np.count_nonzero(at <= (first + tiling.columns - 1) * modulus)
        assert division.tiles == met * tiling.rows // 16


def test_forced_it_is_the_best_wheel():
    assert cost.choose_wheel((pa.Pattern("mian_chowla"),), 4096, 64) is None
    assert cost.choose_wheel((pa.Pattern("mian_chowla"),), 4096, 64, forced=True) in cost.WHEELS


def test_tiles_are_about_those_of_the_analysis():
    """Tiles of 128 × 64 here, squares there; and here nothing of the window."""
    for name, n, modulus in (("primes", 16384, 6), ("primes", 65536, 30), ("squares", 65536, 144)):
        pattern = pa.Pattern(name, window=5)
        division = cost.divide(pattern, n, modulus)
        share = pa.analysis.wheel_fraction(pattern, n, modulus)
        regrouped = pa.Pattern(division.regrouped, window=0)
        least = pa.analysis.wheel_fraction(regrouped, n, modulus, block=64)
        area = division.tiles * 16 * tables.tiling(64).columns / (n * (n + 1) / 2)
        assert least <= share and least * 0.98 < area < least * 1.45


def measured():
    """Rows of the comparison on an H200: by shape, a row for each kernel and wheel."""
    path = Path(__file__).parents[2] / "figures" / "data" / "gpu_wheels_nvidia_h200.json"
    rows, shapes = json.loads(path.read_text())["rows"], {}
    for row in rows:
        shapes.setdefault((row["head_dim"], row["n"], row["sequence"]), {})[row["wheel"]] = row
    return rows, shapes


def test_the_fastest_is_mostly_chosen():
    _, shapes = measured()
    assert len(shapes) == 18
    for backward, least in ((False, 15), (True, 18)):
        lost = []
        for (head_dim, n, name), rows in shapes.items():
            seconds = {
                wheel: row["both_s"] - row["forward_s"] if backward else row["forward_s"]
                for wheel, row in rows.items()
            }
            pattern = pa.Pattern(name, window=3, global_tokens=2)
            chosen = cost.choose_wheel((pattern,), n, head_dim, backward)
            lost.append(seconds[chosen] / min(seconds.values()))
        assert np.count_nonzero(np.array(lost) == 1) >= least and max(lost) < 1.16


def test_costs_are_fitted_to_what_was_measured():
    rows, _ = measured()
    found = gpu_costs.fit_costs(rows)
    assert found == {"COSTS": cost.COSTS, "PAIR": cost.PAIR}
