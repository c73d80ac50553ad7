"""Plans: what is packed, who computes what."""

import numpy as np
import pytest

import primeattn as pa
from primeattn.kernels.cpu import plan
from primeattn.kernels.cpu.plan import (
    PIECE_ROWS,
    SEQUENCE,
    block_rows,
    fused_block_rows,
    heads_together,
    make_plan,
    make_plans,
    parts,
)


def sequences(*rows):
    return np.array([(*row, 0) for row in rows], SEQUENCE)


def whole(n, batch=0):
    return (batch, 0, n, 0, n, 0, 0)


@pytest.mark.parametrize("lengths", [[1], [64], [65], [5000, 1, 129]])
def test_tasks_cover_every_row_once(lengths):
    pattern = pa.Pattern("primes", window=1, global_tokens=3)
    table = sequences(*(whole(n, b) for b, n in enumerate(lengths)))
    plan = make_plan((pattern,) * 4, 2, table, 16, 4, backward=True)
    batch = plan.tables.sequences["batch"]
    assert plan.fused == (max(lengths) <= 64)
    of_keys = plan.tables.tasks["keys"] == 1
    assert of_keys.any() != plan.fused
    for tasks, heads in ((plan.tables.tasks[~of_keys], 4), (plan.tables.tasks[of_keys], 2)):
        if not tasks.size:
            continue
        rows = [
            (batch[t["sequence"]], t["head"], r)
            for t in tasks
            for r in range(t["first"], t["first"] + t["count"])
        ]
        assert sorted(rows) == [
            (s, h, r) for s, n in enumerate(lengths) for h in range(heads) for r in range(n)
        ]
        assert tasks["count"].max() <= plan.block


def test_pieces_write_every_packed_row_once():
    """Panels and the zero rows around them tile the space of a stage; only its last rows are slack."""
    patterns = tuple(pa.Pattern("squares", global_tokens=g) for g in (0, 2, 2, 700))
    table = sequences(whole(PIECE_ROWS + 100), whole(30, 1), whole(70, 2))
    plan = make_plan(patterns, 2, table, 16, 4, backward=True)
    tables = plan.tables
    assert len(tables.stages) == 6
    for side, panels, pieces, rows in (
        ("key", tables.key_panels, tables.key_pieces, plan.rows_at_once[0]),
        ("query", tables.query_panels, tables.query_pieces, plan.rows_at_once[1]),
    ):
        places = np.zeros(rows, int)
        for number, stage in enumerate(tables.stages):
            first, last = stage[f"{side}_row"], stage[f"{side}_row"] + stage[f"{side}_rows"]
            places[first:last] += 1
            written = np.zeros(last - first, int)
            for piece in pieces[stage[f"{side}_piece"] :][: stage[f"{side}_pieces"]]:
                panel = panels[piece["panel"]]
                assert panel["stage"] == number
                first = panel["row"] + piece["start"]
                written[first - piece["zeros"] : first + piece["count"]] += 1
            assert (written[:-8] == 1).all() and (written[-8:] == 0).all()
        assert (places == 1).all()
        assert sum(stage[f"{side}_pieces"] for stage in tables.stages) == len(pieces)


def test_stages_have_all_tasks_of_their_heads():
    patterns = tuple(pa.Pattern("squares", global_tokens=g) for g in (0, 2, 2, 700))
    tables = make_plan(patterns, 2, sequences(whole(900), whole(300, 1)), 16, 4, backward=True).tables
    for number, stage in enumerate(tables.stages):
        tasks = tables.tasks[stage["task"] :][: stage["tasks"]]
        assert (tasks["stage"] == number).all() and (tasks["sequence"] == stage["sequence"]).all()
        of_keys = tasks["keys"] == 1
        assert (tasks["head"][of_keys] == stage["head"]).all()
        assert set(tasks["head"][~of_keys]) == {2 * stage["head"], 2 * stage["head"] + 1}
    assert sum(stage["tasks"] for stage in tables.stages) == len(tables.tasks)


@pytest.mark.parametrize(
    ("lengths", "heads", "workers", "whole_stages"),
    [
        ([2000], 1, 1, True),
        ([2000], 1, 2, False),
        ([2000], 2, 2, True),
        ([2000], 8, 2, True),
        ([2000], 8, 3, False),  # a third of the time of two workers would be lost
        ([2000], 8, 16, False),
        ([2000] * 5, 3, 2, True),
        ([8000] + [100] * 20, 1, 2, False),
        ([8000] + [100] * 20, 16, 2, True),
    ],
)
def test_workers_take_whole_stages_where_these_divide_evenly(lengths, heads, workers, whole_stages):
    table = sequences(*(whole(n, b) for b, n in enumerate(lengths)))
    plan = make_plan((pa.Pattern("primes"),) * heads, heads, table, 16, 4)
    assert plan.whole(workers) == whole_stages


def test_long_sequences_come_first_and_late_queries_before_early_ones():
    lengths = [70, 3000, 100]
    table = sequences(*(whole(n, b) for b, n in enumerate(lengths)))
    tables = make_plan((pa.Pattern("primes"),), 1, table, 16, 4).tables
    assert [lengths[s["batch"]] for s in tables.sequences] == [3000, 100, 70]
    first = tables.tasks["first"][tables.tasks["sequence"] == 0]
    assert tables.tasks["sequence"].tolist() == sorted(tables.tasks["sequence"])
    assert first.size > 1 and first.tolist() == sorted(first, reverse=True)


@pytest.mark.parametrize("lengths", [[3000] + [65] * 1000, [65, 600] * 100, list(range(65, 600))])
def test_zero_rows_follow_the_length_of_each_sequence(lengths):
    table = sequences(*(whole(n, b) for b, n in enumerate(lengths)))
    plan = make_plan((pa.Pattern("squares", global_tokens=2),), 1, table, 16, 4, backward=True)
    assert max(plan.rows_of_stage) <= max(lengths) + 2 * plan.block + 8
    around = sum(2 * min(n, plan.block) + 8 for n in lengths)
    assert max(plan.rows_at_once) <= sum(lengths) + around


def test_short_sequences_have_plans_of_their_own():
    table = sequences(*(whole(n, b) for b, n in enumerate([2, 64, 65, 2000])))
    patterns = (pa.Pattern("primes", global_tokens=2),)
    (kinds, long), (_, short) = parts(patterns, table)
    assert (long["n_q"].tolist(), short["n_q"].tolist()) == ([65, 2000], [2, 64])
    plan = make_plan(patterns, 1, short, 16, 4, backward=True)
    assert plan.fused and not plan.gather
    assert kinds == patterns
    assert [len(parts(patterns, part)) for part in (long, short, short[:0])] == [1, 1, 0]


def test_runs_of_single_tokens_are_one_sequence_that_sees_offset_0():
    rows = [(0, row, n, row, n, 0, 0) for row, n in ((0, 1), (1, 1), (2, 5), (7, 1), (8, 1), (9, 1))]
    table = sequences(*rows, (1, 10, 1, 10, 1, 3, 3), (1, 11, 1, 11, 1, 3, 2))
    patterns = (pa.Pattern("primes", window=3, global_tokens=2),) * 2
    (kinds, rest), (alone, runs) = parts(patterns, table)
    assert kinds == patterns and rest["n_q"].tolist() == [5, 1]  # the last does not see itself
    assert alone == (pa.Pattern(None),) * 2
    assert runs.tolist() == [
        (0, 0, 2, 0, 2, 0, 0, 0),
        (0, 7, 3, 7, 3, 0, 0, 0),
        (1, 10, 1, 10, 1, 0, 0, 0),
    ]


@pytest.mark.parametrize("backward", [False, True])
def test_a_plan_takes_only_offsets_that_reach_the_keys_at_hand(backward):
    pattern = pa.Pattern("primes", window=3, global_tokens=2)
    table = sequences((0, 0, 2, 0, 50, 1000, 400), (1, 0, 2, 0, 50, 1010, 400))
    found = make_plan((pattern,), 1, table, 16, 4, backward).tables.offsets
    every = pattern.offsets(2000)
    assert found.tolist() == every[(every > 600 - 50) & (every < 612)].tolist()
    assert make_plan((pattern,), 1, sequences((0, 0, 1, 0, 5, 3, 40)), 16, 4).tables.offsets.size == 0


def test_a_decode_step_far_out_makes_a_small_plan_and_no_long_prefix():
    pattern = pa.Pattern("primes", window=3, global_tokens=2)
    q = k = v = np.ones((1, 2, 4096, 8), np.float32)
    for k_start in (0, 4 * 10**8 - 4095):
        pa.attention(q[:, :, :1], k, v, pattern, q_start=4 * 10**8, k_start=k_start)
    assert len(pattern._known[0]) < 10_000
    table = sequences((0, 0, 1, 0, 10**6, 10**6 - 1, 0))
    tables = make_plan((pa.Pattern("squares"),) * 8, 8, table, 64, 4).tables
    assert sum(table.size for table in tables) < 2000


def test_heads_share_what_they_agree_on():
    def panels(*globals_per_head, kv_heads=1):
        patterns = tuple(pa.Pattern("primes", global_tokens=g) for g in globals_per_head)
        plan = make_plan(patterns, kv_heads, sequences(whole(100)), 16, 4)
        return len(plan.tables.key_panels) // 2, plan.tables.routes["keys"][0].tolist()

    assert panels(2, 2, 2, 2) == (1, [0, 0, 0, 0])
    assert panels(2, 2, 2, 2, kv_heads=2) == (2, [0, 0, 1, 1])
    assert panels(2, 0, 2, 0) == (2, [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("which", "heads_per_key", "together"),
    [
        ([0, 0], 2, 2),
        ([0, 0], 1, 1),
        ([0, 0, 1, 1], 2, 2),
        ([0, 0, 1, 1], 4, 2),
        ([0, 1, 0, 1], 4, 1),
        ([0, 0, 0], 3, 1),
        ([0] * 6, 3, 1),
    ],
)
def test_pairs_of_heads_with_one_key_head_and_pattern_are_computed_together(
    which, heads_per_key, together, monkeypatch
):
    patterns = pa.Pattern("primes"), pa.Pattern("primes", window=1)
    for vector, expected in ((64, together), (32, 1)):
        monkeypatch.setattr(plan, "VECTOR", vector)
        assert heads_together([patterns[w] for w in which], heads_per_key) == expected


def test_offsets_of_equal_patterns_are_kept_once():
    primes, squares = pa.Pattern("primes"), pa.Pattern("squares")
    tables = make_plan((primes, squares, primes), 1, sequences(whole(50)), 16, 4).tables
    found = [tables.offsets[r["begin"] : r["end"]].tolist() for r in tables.routes[0]]
    assert found == [p.offsets(50).tolist() for p in (primes, squares, primes)]
    assert tables.offsets.size == primes.offsets(50).size + squares.offsets(50).size


def test_plans_are_kept():
    arguments = ((pa.Pattern("primes"),), 1, sequences(whole(50)), 16, 4)
    assert make_plans(*arguments) is make_plans(*arguments)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 100, 2048, 2049, 10**6])
@pytest.mark.parametrize("reads", [1, 100, 10**6])
@pytest.mark.parametrize("heads", [1, 64])
def test_block_rows_are_whole_groups(n, reads, heads):
    for rows in (block_rows(n, reads, heads * n), fused_block_rows(n)):
        most = max(1024, plan.CACHE // 1024)
        assert rows % 8 == 0 and 8 <= rows <= most and rows < n + 8 + 8 * (n == 0)


@pytest.mark.parametrize(
    ("cache", "n", "reads", "heads", "rows"),
    [
        (2**19, 8192, 1000, 1, 128),
        (2**19, 8192, 1000, 8, 512),
        (2**19, 16384, 100, 8, 512),
        (2**19, 65536, 100, 1, 1024),
        (2**19, 65536, 6000, 8, 512),
        (2**21, 8192, 1000, 8, 512),
        (2**21, 16384, 2000, 8, 1024),
        (2**21, 65536, 6000, 8, 2048),
        (2**21, 65536, 100, 1, 1024),
    ],
)
def test_blocks_are_long_where_that_leaves_enough_of_them(cache, n, reads, heads, rows, monkeypatch):
    monkeypatch.setattr(plan, "CACHE", cache)
    assert block_rows(n, reads, heads * n) == rows


def test_one_pass_backward_is_for_dense_patterns_and_several_key_heads():
    def fused(name, batch, backward=True):
        patterns = (pa.Pattern(name, window=3),) * 4
        table = sequences(*(whole(4096, b) for b in range(batch)))
        return make_plan(patterns, 2, table, 16, 4, backward).fused

    assert fused("primes", 4)
    assert not fused("primes", 3)
    assert not fused("squares", 4)
    assert not fused("primes", 4, backward=False)


def test_tables_of_all_plans_are_of_one_type_for_compiled_code():
    patterns = (pa.Pattern("primes", global_tokens=2),)
    for n in (2, 64, 65, 2000):
        for backward in (False, True):
            [plan] = make_plans(patterns, 1, sequences(whole(n, 0)), 16, 4, backward)
            tables = plan.tables
            assert all(table.flags.writeable and table.flags.c_contiguous for table in tables)
