import json

import pytest

from primeattn.analysis import hops
from primeattn.cli.studies import STUDIES
from primeattn.study import check, protocol, protocol_runs
from primeattn.study.naming import drawn, named


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", STUDIES)
def test_every_protocol_is_plain_data_and_can_be_run(name, quick):
    made = protocol(name, quick)
    assert json.loads(json.dumps(made)) == made and made["full"] is not quick and "quick" not in made
    assert all(len(claim) == 2 for claim in made["claims"])
    # One seed of each: the runs are made by the same code.
    runs = protocol_runs(protocol(name, quick, seeds=1, lrs=made["lrs"][:1]))
    assert len(runs) == len(made["tasks"]) * len(made["patterns"]) * len(made["layers"])
    check(runs[0])


def test_changes():
    made = protocol("mqar", patterns=["primes", "lucky"], layers=[1], lrs=[0.1], seeds=1, steps=7)
    assert made["patterns"] == ["primes", "lucky"] and made["claims"] == [] and not made["full"]
    runs = protocol_runs(made)
    assert [(run["pattern"], run["lr"], run["steps"]) for run in runs[:2]] == [
        ("primes", 0.1, 7),
        ("lucky", 0.1, 7),
    ]
    assert protocol("mqar") == protocol("mqar", seeds=None) and protocol("mqar")["sizes"]["steps"] > 7
    assert protocol("mqar", seeds=protocol("mqar")["seeds"])["full"] and not protocol("mqar", seeds=9)["full"]


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: protocol("haystack"), ValueError, "study: expected one of needle, mqar"),
        (lambda: protocol(["copy"]), ValueError, "study: expected one of needle, mqar"),
        (lambda: protocol("copy", patterns=[3]), TypeError, "patterns: expected names, got 3"),
        (lambda: protocol_runs(protocol("copy", patterns=["primes and squares"])), ValueError,
         "patterns: expected one pattern for all heads or 1 of them, got 'primes and squares'"),
        (lambda: protocol_runs(protocol("needle", patterns=["primes as squares"])), ValueError,
         "patterns: 'primes as squares' at n = 96: budget: expected at least"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_seeds_come_one_after_the_other_and_draw_their_own_offsets():
    runs = protocol_runs(
        protocol("needle", quick=True, patterns=["random as primes", "primes"], layers=[1], seeds=3)
    )
    assert [run["seed"] for run in runs] == [0, 0, 1, 1, 2, 2]
    by_name = {
        name: [run["stack"] for run in runs if run["pattern"] == name]
        for name in ("primes", "random as primes")
    }
    assert by_name["primes"][0] == by_name["primes"][2]
    offsets = [check(run).stack[0].offsets(48).tolist() for run in runs if drawn(run["pattern"])]
    assert offsets == [named("random as primes", 48, seed).offsets(48).tolist() for seed in range(3)]


def test_the_claims_compare_equal_costs():
    for name in STUDIES:
        made = protocol(name)
        for claim in made["claims"]:
            assert set(claim) <= set(made["patterns"])
            for task in made["tasks"]:
                n = task.get("length") or task["width"] * task["height"]
                a, b = (_pairs(named(pattern, n), n) for pattern in claim)
                assert a == pytest.approx(b, rel=0.0102)


def _pairs(pattern, n):
    heads = pattern if isinstance(pattern, list) else [pattern]
    return sum(head.num_pairs(n) for head in heads) / len(heads)


def test_the_needle_protocol_separates_numbers_of_layers():
    """Some distance needs each number of layers, so that the prediction can fail."""
    made = protocol("needle")
    for name in ("primes", "squares", "mian_chowla"):
        assert set(made["layers"]) <= set(hops(named(name, 96), 96).tolist())
