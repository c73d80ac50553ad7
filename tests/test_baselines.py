import bz2
import zlib
from collections import Counter, defaultdict

import numpy as np
import pytest

from primeattn.baselines import CountModel, baselines


def as_bytes(text):
    return np.frombuffer(text, np.uint8)


def witten_bell(text, history, byte):
    """Slow oracle: P(byte | history) by dictionaries and recursion."""
    counts = defaultdict(Counter)
    for i in range(len(history), len(text)):
        counts[text[i - len(history) : i]][text[i]] += 1
    shorter = witten_bell(text, history[1:], byte) if history else 1 / 256
    seen = counts[history]
    if not seen:
        return shorter
    return (seen[byte] + len(seen) * shorter) / (seen.total() + len(seen))


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_bits_equal_the_slow_oracle(rng, order):
    text = bytes(rng.choice([10, 97, 98, 255], p=[0.1, 0.5, 0.3, 0.1], size=300).astype(np.uint8))
    heldout = b"abba\xff\n" + bytes(rng.choice([97, 98, 99], size=40).astype(np.uint8)) + b"\0zz\xff\xff\xffa"
    padded = b"\n" * order + heldout
    expected = [
        -np.log2(witten_bell(text, padded[i : i + order], padded[i + order])) for i in range(len(heldout))
    ]
    np.testing.assert_allclose(
        CountModel(as_bytes(text), order).bits(as_bytes(heldout)), expected, rtol=1e-12
    )
    if order < 3:  # the same orders within a larger model
        larger = CountModel(as_bytes(text), 3).bits(as_bytes(heldout), order=order)
        np.testing.assert_allclose(larger, expected, rtol=1e-12)


def test_a_case_to_check_by_eye():
    model = CountModel(as_bytes(b"aab"), 1)
    # No context: a 2 times, b once, 2 kinds. After a: a once, b once, 2 kinds.
    no_context_a = (2 + 2 / 256) / (3 + 2)
    assert model.distribution(b"a")[ord("a")] == pytest.approx((1 + 2 * no_context_a) / (2 + 2))
    assert model.distribution(b"z")[ord("a")] == pytest.approx(no_context_a)  # z never seen


@pytest.mark.parametrize("history", [b"the", b"xyz", b"\xff\xff\xff", b"\0\0\0", b"e t"])
def test_probabilities_sum_to_one_and_agree_with_bits(history):
    text = as_bytes(b"the theme of the thesis: there, then, the other \xff\xff\xff\xff" * 3)
    model = CountModel(text, 3)
    p = model.distribution(history)
    assert p.shape == (256,) and p.min() > 0 and p.sum() == pytest.approx(1, abs=1e-12)
    followed = [model.bits(as_bytes(history + bytes([c])))[-1] for c in range(256)]
    np.testing.assert_allclose(2.0 ** -np.array(followed), p, rtol=1e-12)


def test_an_empty_text_gives_eight_bits():
    np.testing.assert_array_equal(CountModel(as_bytes(b""), 3).bits(as_bytes(b"abcde")), 8.0)


def test_a_text_shorter_than_the_order():
    assert CountModel(as_bytes(b"ab"), 3).bits(as_bytes(b"a")).shape == (1,)


def test_order_errors():
    for order in (4, -1, True, 1.5):
        with pytest.raises(ValueError, match="order: expected an integer from 0 to 3"):
            CountModel(as_bytes(b"ab"), order)
    with pytest.raises(ValueError, match="history: expected at least 2 bytes, got 1"):
        CountModel(as_bytes(b"abc"), 2).distribution(b"a")


def test_baselines_score_the_same_bytes():
    text = b"".join(b"value_%d = compute(%d, other=%d)\n" % (i, i * i % 97, i % 7) for i in range(3000))
    train, heldout = as_bytes(text[:-8000]), as_bytes(text[-8000:])
    scores = baselines(train, heldout)
    names = ["order2_bits_per_byte", "order3_bits_per_byte", "gzip_bits_per_byte", "bz2_bits_per_byte"]
    assert list(scores) == names and all(type(value) is float for value in scores.values())
    assert scores["order3_bits_per_byte"] < scores["order2_bits_per_byte"] < 3
    assert scores["order2_bits_per_byte"] == pytest.approx(CountModel(train, 2).bits(heldout).sum() / 8000)
    deflated = 8 * len(zlib.compress(heldout.tobytes(), 9)) / 8000
    assert scores["gzip_bits_per_byte"] == pytest.approx(deflated + 8 * 12 / 8000)  # 12 bytes more of header
    assert scores["bz2_bits_per_byte"] == 8 * len(bz2.compress(heldout.tobytes(), 9)) / 8000
