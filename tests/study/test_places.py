from dataclasses import dataclass

import pytest

from primeattn.patterns import Pattern
from primeattn.study import curves, grid, places, reached
from primeattn.tasks import mqar, needle, text


def record(run, at, asked, score, by="distance", losses=(2.0, 1.0), error=None):
    result = {"validation": 0.5, "test": 0.5, "losses": list(losses), "by": by, "at": at, "asked": asked}
    return {"run": run, "result": result | {"score": score, "error": error}}


def squares(seeds, **options):
    return grid([needle(length=6)], {"squares": Pattern("squares")}, seeds=seeds, **options)


def test_seeds_are_pooled_by_the_number_of_questions():
    one, two = squares(2)
    records = [record(one, [1, 2], [1, 4], [1.0, 0.25]), record(two, [1, 3], [3, 2], [0.0, 0.5])]
    [row] = places(records)
    assert (row["at"], row["score"]) == ([1, 2, 3], [0.25, 0.25, 0.5])
    assert row["reached"] == [True, False, False] and row["by"] == "distance" and row["length"] == 6
    [row] = reached(records)
    assert (row["expected"], row["lowest"]) == (0.25, 0.25)
    assert row["others"] == pytest.approx((4 * 0.25 + 2 * 0.5) / 6) and row["chance"] == 0.125


def test_nothing_expected_or_nothing_else():
    [run] = squares(1)
    [row] = reached([record(run, [1, 4], [5, 5], [1.0, 0.8])])
    assert (row["expected"], row["lowest"], row["others"]) == (0.9, 0.8, None)
    [row] = reached([record(run, [2], [5], [0.2])])
    assert (row["expected"], row["lowest"], row["others"]) == (None, None, 0.2)


@dataclass(frozen=True, repr=False)
class in_bits(needle):
    metric = "bits"


def test_of_bits_the_most_are_the_worst():
    [run] = grid([in_bits(length=6)], {"squares": Pattern("squares")}, seeds=1)
    [row] = reached([record(run, [1, 4], [5, 5], [1.0, 3.0])])
    assert (row["expected"], row["lowest"]) == (2.0, 3.0)


def test_relays_are_told_from_what_is_not_connected():
    """A relay of mqar cannot know the key: theory expects answers in one layer only."""
    [run] = grid([mqar(length=16, pairs=4, vocab=16)], {"two": [Pattern([4])] * 2}, seeds=1)
    records = [record(run, [4, 8, 12], [6, 2, 8], [1.0, 0.5, 0.25])]
    [row] = places(records)
    assert (row["reached"], row["connected"]) == ([True, False, False], [True, True, False])
    [row] = reached(records)
    assert (row["expected"], row["relayed"], row["others"]) == (1.0, 0.5, 0.25)
    [run] = grid([mqar(length=16, pairs=4, vocab=16)], {"one": [Pattern([4])]}, seeds=1)
    [row] = reached([record(run, [4, 8], [6, 2], [1.0, 0.5])])
    assert (row["expected"], row["relayed"], row["others"]) == (1.0, None, 0.5)


def test_offsets_of_each_seed_are_held_to_their_own_theory():
    runs = [*squares(1), dict(squares(2)[1], stack=[Pattern([2]).to_json()])]
    records = [
        record(run, [1, 2], [1, 1], [float(run["seed"] == 0), float(run["seed"] == 1)]) for run in runs
    ]
    [row] = reached(records)
    assert (row["expected"], row["others"]) == (1.0, 0.0)
    [row] = places(records)  # of the first alone
    assert (row["score"], row["reached"]) == ([1.0, 0.0], [True, False])


def test_positions_have_no_theory():
    [run] = grid([text(length=4)], {"squares": Pattern("squares")}, seeds=1)
    records = [record(run, [0, 1], [2, 2], [5.0, 4.0], by="position")]
    [row] = places(records)
    assert row["by"] == "position" and row["reached"] is row["connected"] is None and row["metric"] == "bits"
    assert reached(records) == []


def test_curves_are_means_over_seeds_at_the_steps_where_parts_end():
    one, two = squares(2, steps=5)
    records = [record(one, [1], [1], [1.0], losses=(4, 2)), record(two, [1], [1], [1.0], losses=(2, 1))]
    [row] = curves(records)
    assert (row["steps"], row["losses"]) == ([3, 5], [3.0, 1.5])


def test_failed_runs_are_left_out():
    one, two = squares(2)
    records = [record(one, [1], [1], [1.0]), record(two, [], [], [], by=None, losses=(), error="loss nan")]
    assert len(places(records)) == len(curves(records)) == len(reached(records)) == 1
    assert places(records[1:]) == curves(records[1:]) == reached(records[1:]) == []
