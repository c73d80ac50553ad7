import warnings

import numpy as np
import pytest

from primeattn.analysis import controls
from primeattn.patterns import Pattern
from primeattn.sequences import strided

NAMES = ["window", "strided", "powers of two", "dense", "random 0", "random 1", "random 2"]


@pytest.mark.parametrize("n", [128, 1000, 4096])
@pytest.mark.parametrize("sequence", ["primes", "squares", "mian_chowla"])
def test_equal_cost(sequence, n):
    pattern = Pattern(sequence, window=3, global_tokens=2)
    found = controls(pattern, n)
    assert list(found) == NAMES
    dense = found.pop("dense")
    assert dense.num_pairs(n) == n * (n + 1) // 2
    for control in found.values():
        assert 0.99 * pattern.num_pairs(n) <= control.num_pairs(n) <= pattern.num_pairs(n)
        assert control.global_tokens == 2
    assert len({control for control in found.values()}) == 6


def test_what_they_are():
    n, pattern = 4096, Pattern("primes", window=3)
    found = controls(pattern, n)
    assert found["window"] == Pattern(None, window=315)  # as measured before
    assert found["powers of two"] == Pattern("powers_of_two", window=313)
    stride = int(found["strided"].sequence(1000)[0])
    assert found["strided"] == Pattern(strided(stride), found["strided"].window)
    multiples = Pattern(strided(stride)).num_pairs(n) - n
    assert 0.9 < multiples / ((pattern.num_pairs(n) - n) / 2) <= 1  # half for the stride
    for seed in range(3):
        offsets = found[f"random {seed}"].offsets(n)
        for k in range(6, 11):
            inside, block = (((x >= 2**k) & (x < 2 ** (k + 1))).sum() for x in (offsets, pattern.offsets(n)))
            assert inside == pytest.approx(block, rel=0.02, abs=1)
        assert np.isin(offsets, pattern.offsets(n)).mean() < 0.3
    assert list(controls(pattern.sequence, n, seeds=0)) == NAMES[:4]


def test_controls_of_a_stack_are_stacks():
    stack = [Pattern("primes", window=3), Pattern("squares", window=3, global_tokens=1)]
    budget = sum(layer.num_pairs(512) for layer in stack)
    for name, control in controls(stack, 512).items():
        assert [layer.global_tokens for layer in control] == [0, 1]
        if name != "dense":
            assert 0.99 * budget <= sum(layer.num_pairs(512) for layer in control) <= budget


def test_powers_of_two_that_cost_too_much_are_left_out():
    with pytest.warns(UserWarning, match="controls: powers of two take at least 897 pairs, the pattern 794"):
        found = controls(Pattern("cubes", window=3), 128)
    assert "powers of two" not in found and len(found) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        controls(Pattern("cubes", window=3), 4096)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: controls("primes", 10), TypeError, "pattern: expected a Pattern, got 'primes'"),
        (lambda: controls(Pattern("primes"), 0), ValueError, "n: expected an integer >= 1, got 0"),
        (lambda: controls(Pattern("primes"), 10, seeds=1.5), TypeError, "seeds: expected an integer"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
