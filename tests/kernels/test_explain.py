"""Which GPU kernel would run, and what is said of it."""

import json

import pytest

import primeattn as pa
from primeattn.wheel import cost

PRIMES = pa.Pattern("primes", window=5, global_tokens=2)


@pytest.mark.parametrize(
    ("pattern", "n", "head_dim", "backward", "kernel", "best"),
    [
        (PRIMES, 4096, 64, False, "wheel", 6),
        (PRIMES, 4096, 64, True, "wheel", 6),
        (PRIMES, 65536, 64, False, "wheel", 30),
        (PRIMES, 65536, 128, True, "wheel", 30),
        (pa.Pattern("squares", window=3), 16384, 64, False, "wheel", 16),
        (pa.Pattern("squares", window=3), 16384, 64, True, "gather", None),
        (pa.Pattern("squares", window=3), 65536, 64, False, "gather", None),
        (pa.Pattern("mian_chowla", window=3), 65536, 64, False, "gather", None),
        (pa.Pattern(None, window=3), 4096, 64, False, "gather", None),
        (PRIMES, 1, 64, False, "gather", None),
    ],
)
def test_predicted_choices(pattern, n, head_dim, backward, kernel, best):
    explained = pa.kernels.explain_kernel(pattern, n, head_dim, backward=backward)
    assert (explained.kernel, explained.wheel) == (kernel, best)
    assert explained.reason.endswith("in the backward" if backward else "in the forward")
    assert cost.choose_wheel((pattern,), n, head_dim, backward) == best
    costs = {(row["kernel"], row["wheel"]): row["milliseconds"] for row in explained.table}
    assert costs[kernel, best] == min(costs.values())
    assert str(explained).startswith(kernel) and json.dumps(explained.table)


def test_what_the_wheel_does_not_serve_is_said():
    for head_dim, dtype in ((64, "float32"), (40, "bfloat16")):
        explained = pa.kernels.explain_kernel(PRIMES, 4096, head_dim, dtype)
        assert explained.kernel == "gather" and len(explained.table) == 1
        assert explained.reason == (
            "gather: the wheel kernel serves float16 and bfloat16 with head_dim 64 and 128, "
            f"not {dtype} with {head_dim}"
        )


def test_terms_are_for_gather():
    explained = pa.kernels.explain_kernel(PRIMES, 16384, terms=("softcap", "dropout"))
    assert explained.kernel == "gather" and len(explained.table) == 1
    assert explained.reason.endswith("q·k alone and no dropout, not softcap")


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (TypeError, "pattern: expected a Pattern, got 'primes'", ("primes", 10)),
        (ValueError, "n: expected an integer >= 1, got 0", (PRIMES, 0)),
        (TypeError, "head_dim: expected an integer", (PRIMES, 10, 64.0)),
        (ValueError, "dtype: expected one of 'float16', .*, got 'int8'", (PRIMES, 10, 64, "int8")),
        (
            ValueError,
            "terms: expected a sequence of .*, got 'slopes'",
            (PRIMES, 10, 64, "float32", False, "slopes"),
        ),
        (
            ValueError,
            "terms: expected a sequence of .*, got .'bias'.",
            (PRIMES, 10, 64, "float32", False, ["bias"]),
        ),
    ],
)
def test_bad_arguments(error, match, arguments):
    with pytest.raises(error, match=match):
        pa.kernels.explain_kernel(*arguments)
