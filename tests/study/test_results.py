import numpy as np
import pytest

from primeattn.patterns import Pattern
from primeattn.study import differences, grid, summary
from primeattn.tasks import copy, mqar, text


def records(runs, validation, test):
    """Made-up results by (pattern, lr, seed)."""
    return [
        {
            "run": run,
            "result": {
                "validation": validation(run),
                "test": test(run),
                "error": None if test(run) is not None else "training: loss nan",
            },
        }
        for run in runs
    ]


PATTERNS = {"a": Pattern("squares"), "b": [Pattern("primes"), [Pattern(None), Pattern("squares")]]}


def test_the_rate_is_chosen_by_validation_and_judged_by_the_test():
    runs = grid([copy(32, 4)], PATTERNS, lrs=(0.1, 0.2, 0.3), seeds=3, heads=2)
    best = {"a": 0.2, "b": 0.3}
    table = summary(
        records(
            runs,
            lambda run: 0.9 if run["lr"] == best[run["pattern"]] else 0.8 + 0.05 * run["seed"],
            lambda run: 0.99 if run["lr"] == 0.1 else run["lr"] + run["seed"],
        )
    )
    assert [row["pattern"] for row in table] == ["a", "b"] and [row["lr"] for row in table] == [0.2, 0.3]
    for row in table:
        values = np.array([0, 1, 2]) + row["lr"]
        assert row["mean"] == pytest.approx(values.mean()) and row["n"] == 3
        assert row["std"] == pytest.approx(values.std(ddof=1))
    assert [row["layers"] for row in table] == [1, 2] and [row["predicted"] for row in table] == [1, 1]
    squares, primes, alone = (Pattern(s).num_pairs(32) for s in ("squares", "primes", None))
    assert [row["pairs"] for row in table] == [squares, round(primes + (alone + squares) / 2)]


def test_what_relays_connect_beyond_what_theory_expects():
    """In mqar theory expects answers at 4 alone, and two layers connect 8, of 4 and 4."""
    task = mqar(length=16, pairs=4, vocab=16)
    one, two = ([Pattern([4], window=0)] * layers for layers in (1, 2))
    rows = summary(records(grid([task], {"one": one, "two": two}, seeds=1), lambda run: 1.0, lambda run: 1.0))
    tokens, targets = task.draw(np.random.default_rng(1), 16384)
    answers = task.answers(tokens, targets)
    distances = (np.arange(16) - answers)[answers >= 0]
    at = [np.mean(np.isin(distances, places)) for places in ([0, 4], [0, 4, 8])]
    assert [row["predicted"] for row in rows] == pytest.approx([at[0], at[0]], abs=0.005)
    assert [row["connected"] for row in rows] == pytest.approx(at, abs=0.005) and at[0] < at[1] < 1


def test_fewer_bits_are_better():
    runs = grid([text(length=16)], {"a": Pattern("squares")}, lrs=(0.1, 0.2), seeds=1)
    [row] = summary(records(runs, lambda run: 5 - 10 * run["lr"], lambda run: run["lr"]))
    assert row["lr"] == 0.2 and row["std"] is None and row["predicted"] is None and row["chance"] == 8


def test_failed_runs():
    runs = grid([copy(32, 4)], {"a": Pattern("squares")}, lrs=(0.1, 0.2), seeds=2)

    def last_fails(run):
        return None if (run["lr"], run["seed"]) == (0.2, 1) else run["lr"]

    [row] = summary(records(runs, last_fails, last_fails))  # a rate at which all went well is preferred
    assert (row["lr"], row["n"], row["mean"]) == (0.1, 2, pytest.approx(0.1))
    [row] = summary(records(runs, lambda run: None, lambda run: None))
    assert row["n"] == 0 and row["mean"] is row["std"] is None
    assert "-" in str(summary(records(runs, lambda run: None, lambda run: None)))


def test_runs_of_other_sizes_have_their_own_row():
    runs = grid([copy(32, 4)], {"a": Pattern("squares")}, seeds=1)
    runs += grid([copy(32, 4)], {"a": Pattern("squares")}, seeds=1, width=32)
    assert len(summary(records(runs, lambda run: 1.0, lambda run: 1.0))) == 2
    assert summary([]) == []


def test_patterns_of_one_name_may_differ_by_seed():
    one = grid([copy(32, 4)], {"random": Pattern([4])}, seeds=1)
    two = [dict(run, seed=1) for run in grid([copy(32, 4)], {"random": Pattern([5])}, seeds=1)]
    [row] = summary(records(one + two, lambda run: 1.0, lambda run: float(run["seed"])))
    assert (row["n"], row["mean"], row["predicted"]) == (2, 0.5, 0.5)
    assert row["pairs"] == round((Pattern([4]).num_pairs(32) + Pattern([5]).num_pairs(32)) / 2)


def test_patterns_of_one_name_that_differ_at_equal_seeds_are_kept_apart():
    runs = [run for offsets in ([4], [5]) for run in grid([copy(32, 4)], {"a": Pattern(offsets)}, seeds=2)]
    table = summary(records(runs, lambda run: 1.0, lambda run: 1.0))
    assert [(row["n"], row["predicted"]) for row in table] == [(2, 1.0), (2, 0.0)]
    with pytest.raises(ValueError, match="'a' is the name of different patterns with equal seeds"):
        differences(records(runs, lambda run: 1.0, lambda run: 1.0), [("a", "b")])


def test_differences_are_paired_by_seed():
    runs = grid([copy(32, 4), text(length=16)], {"a": Pattern("squares"), "b": Pattern(None)}, seeds=3)

    def test(run):
        return 0.5 + run["seed"] / 4 + (run["pattern"] == "a") * (0.01 + 0.001 * run["seed"])

    table = differences(records(runs, test, test), [("a", "b"), ("b", "a")])
    assert [(row["better"], row["task"][:4], row["verdict"]) for row in table] == [
        ("a", "copy", "supported"),
        ("a", "text", "not supported"),  # fewer bits are better
        ("b", "copy", "not supported"),
        ("b", "text", "supported"),
    ]
    assert table[0]["n"] == 3 and table[0]["mean"] == pytest.approx(0.011)
    assert table[0]["std"] == pytest.approx(0.001)  # not that of the seeds


@pytest.mark.parametrize("claims", [[("a", "c")], ("a", "b"), [("a",)]])
def test_a_claim_of_a_name_without_records(claims):
    runs = grid([copy(32, 4)], {"a": Pattern("squares"), "b": Pattern(None)}, seeds=1)
    with pytest.raises(ValueError, match="claims: expected pairs of a, b, got"):
        differences(records(runs, lambda run: 1.0, lambda run: 1.0), claims)


def test_a_seed_that_failed_has_no_pair():
    runs = grid([copy(32, 4)], {"a": Pattern("squares"), "b": Pattern(None)}, seeds=4)

    def test(run):
        return None if (run["pattern"], run["seed"]) in (("a", 1), ("b", 3)) else 1.0

    [row] = differences(records(runs, lambda run: 1.0 if test(run) else None, test), [("a", "b")])
    assert row["n"] == 2 and row["verdict"] == "undecided"


def test_runs_are_no_records():
    runs = grid([copy(16, 4)], {"a": Pattern("squares")}, seeds=1)
    with pytest.raises(TypeError, match="records: expected what run returns, got "):
        summary(runs)


def test_of_equal_rates_the_lowest_is_taken():
    """However the records come."""
    runs = grid([copy(32, 4)], {"a": Pattern("squares")}, lrs=(0.3, 0.1, 0.2), seeds=1)
    [row] = summary(records(runs, lambda run: 1.0, lambda run: run["lr"]))
    assert row["lr"] == 0.1


def test_what_is_no_result_or_run_is_refused():
    [made] = records(
        grid([copy(32, 4)], {"a": Pattern("squares")}, seeds=1), lambda run: 1.0, lambda run: 1.0
    )
    for change, match in (
        ({"result": None}, "records: expected results as"),
        ({"run": {}}, "run: expected a dict"),
    ):
        with pytest.raises(ValueError, match=match):
            summary([made | change])
    for claim in (5, "aa", ("a",)):
        with pytest.raises(ValueError, match="claims: expected pairs of a, got"):
            differences([made], [claim])
