import math

import numpy as np
import pytest

from primeattn.analysis import hops
from primeattn.language_model import evaluate, generate, make_model, sinusoids
from primeattn.nn import Layer, setup
from primeattn.patterns import Pattern

PATTERN = Pattern("primes", window=3, global_tokens=2)


class Bigram(Layer):
    """A model whose logits depend on the last byte alone, whatever the window."""

    def __init__(self, table):
        self.table = table

    def __call__(self, tokens, ps, st, workspace=None):
        return self.table[tokens], st


def test_model_is_causal_and_sees_its_pattern(rng):
    model = make_model(Pattern("squares"), layers=1, width=16, heads=2, context=24)
    ps, st = setup(rng, model)
    tokens = rng.integers(256, size=(1, 24), dtype=np.uint8)
    changed = tokens.copy()
    changed[0, 3] ^= 1
    before, after = model(tokens, ps, st)[0], model(changed, ps, st)[0]
    differs = np.flatnonzero(np.any(before != after, axis=(0, 2)))
    # Byte 3 enters the embeddings at 3 and 4; squares carry these on by 1, 4, 9 and 16, one hop per layer.
    squares = (0, 1, 4, 9, 16)
    np.testing.assert_array_equal(differs, sorted({p + s for p in (3, 4) for s in squares}))


def test_tied_model_has_one_table_and_is_the_same_below_it(rng):
    options = {"layers": 1, "width": 16, "heads": 2, "context": 24}
    model, apart = (make_model(PATTERN, tied=tied, **options) for tied in (True, False))
    ps, st = setup(rng, model)
    tokens = rng.integers(256, size=(2, 24), dtype=np.uint8)
    assert model.parameter_count == apart.parameter_count - 16 * 256 - 256
    table = ps["embedding"]["weight"]
    layers = {f"layer_{i + 1}": child for i, child in enumerate(ps["layer"].values())}
    head = {"weight": table.T.copy(), "bias": np.zeros(256, np.float32)}
    ps_apart = {"layer_0": ps["embedding"], **layers, f"layer_{len(layers) + 1}": head}
    logits = apart(tokens, ps_apart, setup(rng, apart)[1])[0]
    np.testing.assert_allclose(model(tokens, ps, st)[0], logits, rtol=0, atol=1e-5)
    text = generate(model, ps, st, b"def", 5, temperature=0)
    scored, _ = model(np.frombuffer(b"def" + text[:-1], np.uint8), ps, st)
    assert bytes(scored[2:].argmax(axis=1).astype(np.uint8)) == text
    with pytest.raises(TypeError, match="tied: expected True or False, got 1"):
        make_model(PATTERN, tied=1)


def test_sinusoids_tell_distances_apart():
    for shape in ((24, 16), (24, 7)):
        positions = sinusoids(None, shape, np.float32)
        assert positions.shape == shape and positions.dtype == np.float32 and abs(positions).max() <= 0.2
    products = (lambda p: p @ p.T)(sinusoids(None, (24, 16), np.float64))
    for distance in range(24):  # the same for all pairs of a distance, and largest at distance 0
        np.testing.assert_allclose(np.diagonal(products, distance), products[0, distance], rtol=1e-9)
    assert products[0].argmax() == 0


def test_evaluate_scores_each_byte_once(rng):
    table = rng.standard_normal((256, 256))
    text = rng.integers(256, size=333, dtype=np.uint8)
    before = np.concatenate([[ord("\n")], text[:-1]])
    p = np.exp(table) / np.exp(table).sum(axis=1, keepdims=True)
    expected = -np.log2(p[before, text]).mean()
    for context, batch in [(10, 16), (10, 1), (11, 7), (1, 16), (333, 16), (1000, 16)]:
        assert evaluate(Bigram(table), {}, {}, text, context, batch) == pytest.approx(expected, rel=1e-12)


def test_evaluate_a_model_in_one_window(rng):
    model = make_model(PATTERN, layers=1, width=16, heads=2, context=24)
    ps, st = setup(rng, model, np.float64)
    text = rng.integers(256, size=20, dtype=np.uint8)
    logits, _ = model(np.concatenate([np.uint8([10]), text[:-1]]), ps, st)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert evaluate(model, ps, st, text, 24) == pytest.approx(
        -np.log2(p[np.arange(20), text]).mean(), rel=1e-12
    )


def test_generate_follows_the_model(rng):
    successor = 50.0 * np.eye(256)[(np.arange(256) + 1) % 256]
    for context in (1, 2, 7, 100, None):
        options = {"context": context, "slide": context is not None, "rng": rng}
        assert generate(Bigram(successor), {}, {}, b"\n", 30, **options) == bytes(range(11, 41))
    coin = np.full((256, 256), -np.inf)
    coin[:, [ord("a"), ord("b")]] = math.log(3), 0.0
    drawn = generate(Bigram(coin), {}, {}, b"\n", 2000, rng=rng)
    assert set(drawn) == set(b"ab") and drawn.count(b"a") / 2000 == pytest.approx(3 / 4, abs=0.04)
    colder = generate(Bigram(coin), {}, {}, b"\n", 2000, temperature=0.5, rng=rng)
    assert colder.count(b"a") / 2000 == pytest.approx(9 / 10, abs=0.04)


def test_generated_text_equals_scoring_it_in_full(rng):
    model = make_model(PATTERN, layers=2, width=16, heads=2, context=40)
    ps, st = setup(rng, model)
    prompts = [b"def ", b"x", b"import numpy"]
    drawn = generate(model, ps, st, prompts, 20, temperature=0)
    for prompt, new in zip(prompts, drawn, strict=True):
        logits, _ = model(np.frombuffer(prompt + new[:-1], np.uint8), ps, st)
        assert bytes(logits[len(prompt) - 1 :].argmax(axis=1).astype(np.uint8)) == new
        assert generate(model, ps, st, prompt, 20, temperature=0) == new
        tokens = generate(model, ps, st, np.frombuffer(prompt, np.uint8), 20, temperature=0)
        assert tokens.tolist() == list(new)


def test_generate_slides_or_says_that_the_context_is_full(rng):
    model = make_model(PATTERN, layers=1, width=16, heads=2, context=24)
    ps, st = setup(rng, model)
    drawn = generate(model, ps, st, b"abc", 60, temperature=0, context=24, slide=True)
    text, start = b"abc", 0
    while len(text) < 63:
        if len(text) - start == 25:
            start = len(text) - 12
        logits, _ = model(np.frombuffer(text[start:], np.uint8), ps, st)
        text += bytes([logits[-1].argmax()])
    assert drawn == text[3:]
    with pytest.raises(ValueError, match="context: expected at least 62 positions, or slide=True, got 24"):
        generate(model, ps, st, b"abc", 60, context=24)
    with pytest.raises(ValueError, match="sequences must have at most 24 positions, got 62"):
        generate(model, ps, st, b"abc", 60)


def test_generate_is_greedy_at_temperature_0(rng):
    table = rng.standard_normal((256, 256))
    table[:, 7] = table[:, 9] = 10.0  # of equals the first
    assert generate(Bigram(table), {}, {}, b"\n", 5, temperature=0) == bytes([7] * 5)
    table = rng.standard_normal((256, 256)).astype(np.float32)
    greedy = generate(Bigram(table), {}, {}, b"\n", 50, temperature=0.0)
    assert all(after == table[before].argmax() for before, after in zip(b"\n" + greedy, greedy, strict=False))
    for cold in (1e-3, 1e-300, 5e-324):
        with np.errstate(all="raise", under="ignore"):
            assert generate(Bigram(1e10 * table), {}, {}, b"\n", 50, temperature=cold) == greedy


def test_top_k_and_top_p_draw_from_the_most_likely_tokens(rng):
    logits = np.full(256, -50.0)
    logits[[3, 9, 40, 41]] = np.log([0.1, 0.4, 0.3, 0.2])
    table = np.tile(logits, (256, 1))

    def shares(**options):
        drawn = generate(Bigram(table), {}, {}, b"a", 3000, rng=rng, **options)
        return {token: drawn.count(token) / 3000 for token in set(drawn)}

    near = {"abs": 0.05}
    assert shares() == pytest.approx({3: 0.1, 9: 0.4, 40: 0.3, 41: 0.2}, **near)
    assert shares(top_k=2) == pytest.approx({9: 4 / 7, 40: 3 / 7}, **near)
    assert shares(top_p=0.4) == shares(top_k=1) == {9: 1.0}
    assert shares(top_p=0.41) == pytest.approx({9: 4 / 7, 40: 3 / 7}, **near)
    assert shares(top_p=0.65, top_k=3) == pytest.approx({9: 4 / 7, 40: 3 / 7}, **near)
    assert shares(top_p=1.0).keys() == {3, 9, 40, 41}
    seeded = [generate(Bigram(table), {}, {}, b"a", 50, rng=seed) for seed in (5, 5, 6, None, 0)]
    assert seeded[0] == seeded[1] != seeded[2] and seeded[3] == seeded[4]


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"temperature": -1}, ValueError, "temperature: expected a finite number >= 0, got -1"),
        ({"temperature": math.nan}, ValueError, "temperature: expected a finite number >= 0, got nan"),
        ({"temperature": math.inf}, ValueError, "temperature: expected a finite number >= 0, got inf"),
        ({"temperature": None}, TypeError, "temperature: expected a number, got None"),
        ({"temperature": True}, TypeError, "temperature: expected a number, got True"),
        ({"context": 0}, ValueError, "context: expected an integer >= 1, got 0"),
        ({"context": 2.0}, TypeError, r"context: expected an integer, got 2\.0"),
        ({"length": -1}, ValueError, "length: expected an integer >= 0, got -1"),
        ({"top_k": 0}, ValueError, "top_k: expected an integer >= 1, got 0"),
        ({"top_p": 0}, ValueError, r"top_p: expected a number in \(0, 1\], got 0"),
        ({"top_p": 1.5}, ValueError, r"top_p: expected a number in \(0, 1\], got 1.5"),
        ({"prompt": b""}, ValueError, "prompt: expected at least one token, got none"),
        ({"prompt": []}, ValueError, "prompt: expected at least one, got an empty list"),
        (
            {"prompt": np.zeros((2, 2), int)},
            ValueError,
            r"prompt: expected bytes, .*, got one of shape \(2, 2\)",
        ),
        ({"prompt": [100, 101]}, ValueError, r"a list of such prompts, got one of shape \(\)"),
        ({"prompt": "def"}, TypeError, "prompt: expected bytes, such as b'def ', or tokens, got 'def'"),
        ({"prompt": ["def"]}, TypeError, "prompt: expected bytes, such as b'def ', or tokens, got 'def'"),
        ({"context": None, "slide": True}, ValueError, "slide: expected context with it"),
        ({"rng": 1.5}, TypeError, "rng: expected an integer"),
    ],
)
def test_generate_refuses(change, error, message, rng):
    options = {"prompt": b"a", "length": 3, "context": 4, "rng": rng, **change}
    with pytest.raises(error, match=message):
        generate(Bigram(np.zeros((256, 256))), {}, {}, **options)


def test_evaluate_refuses_an_empty_batch():
    with pytest.raises(ValueError, match="batch: expected an integer >= 1, got 0"):
        evaluate(Bigram(np.zeros((256, 256))), {}, {}, np.zeros(9, np.uint8), 4, 0)


def test_each_layer_may_have_its_own_pattern_and_each_head(rng):
    stack = [[Pattern("squares"), Pattern("powers_of_two")], Pattern(None, window=1)]
    model = make_model(stack, width=16, heads=2, context=24, vocab=11, previous=0)
    ps, st = setup(rng, model)
    tokens = rng.integers(11, size=(1, 24))
    changed = tokens.copy()
    changed[0, 3] = (changed[0, 3] + 1) % 11
    before, after = model(tokens, ps, st)[0], model(changed, ps, st)[0]
    assert before.shape == (1, 24, 11)
    differs = np.flatnonzero(np.any(before != after, axis=(0, 2)))
    reached = hops([Pattern("squares") | Pattern("powers_of_two"), Pattern(None, window=1)], 21) >= 0
    np.testing.assert_array_equal(differs, 3 + np.flatnonzero(reached))


def test_as_many_layers_as_patterns():
    stack = [PATTERN] * 3
    count = make_model(stack, width=16).parameter_count
    assert count == make_model(PATTERN, layers=3, width=16).parameter_count
    assert count == make_model(stack, layers=3, width=16).parameter_count
    with pytest.raises(ValueError, match="layers: expected 3, the patterns of the list, got 2"):
        make_model(stack, layers=2)
    with pytest.raises(TypeError, match=r"layers: expected an integer, got 2\.0"):
        make_model(PATTERN, layers=2.0)
