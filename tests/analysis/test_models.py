from dataclasses import dataclass

import numpy as np
import pytest

from primeattn.analysis import attention_calls, attention_map, attention_summary, entropy, rule_mass
from primeattn.language_model import make_model
from primeattn.nn import (
    Chain,
    Dense,
    Dropout,
    Layer,
    PrimeSelfAttention,
    RMSNorm,
    SkipConnection,
    relu,
    setup,
)
from primeattn.nn import SparseIndexAttention as Attention
from primeattn.patterns import Pattern
from primeattn.tree import with_segments

PATTERN = Pattern("primes", window=3, global_tokens=2)


def test_every_layer_gets_what_the_model_gives_it(rng):
    model = make_model(PATTERN, layers=2, width=16, heads=4, context=50)
    ps, st = setup(rng, model)
    tokens = rng.integers(0, 256, (3, 50), np.uint8)
    calls = attention_calls(model, tokens, ps, st)
    assert list(calls) == ["layer_2/layer_1", "layer_4/layer_1"]
    x = tokens
    for name, layer in model.items():
        if f"{name}/layer_1" in calls:
            call = calls[f"{name}/layer_1"]
            norm, attention = layer.layer.values()
            normed, _ = norm(x, ps[name]["layer_0"], {})
            np.testing.assert_array_equal(call.x, normed)
            assert call.layer is attention and call.ps is ps[name]["layer_1"]
            assert call.st is st[name]["layer_1"]
        x, _ = layer(x, ps[name], st[name])


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda layer: layer, ""),
        (SkipConnection, ""),
        (
            lambda layer: Chain(Dense(8, 8), deep=SkipConnection(Chain(relu, SkipConnection(layer)))),
            "deep/layer_1",
        ),
    ],
)
def test_attention_is_found_however_deep(wrap, path, rng):
    model = wrap(PrimeSelfAttention(8))
    ps, st = setup(rng, model)
    assert list(attention_calls(model, rng.standard_normal((20, 8), dtype=np.float32), ps, st)) == [path]


@pytest.mark.parametrize("segments", [None, [0, 7, 7, 30]])
def test_the_summary_is_the_mean_over_queries(segments, rng):
    patterns = (PATTERN, Pattern("squares", window=1), Pattern(None, window=6), PATTERN)
    model = Chain(RMSNorm(8), SkipConnection(Attention(8, patterns, heads=4, kv_heads=2)), Dropout(0.5))
    ps, st = setup(rng, model, np.float64)
    x = rng.standard_normal((1 if segments else 3, 30, 8))
    st = st if segments is None else with_segments(st, segments)
    table = attention_summary(model, x, ps, st)
    call = attention_calls(model, x, ps, st)["layer_1"]
    assert [(row["layer"], row["head"]) for row in table] == [("layer_1", head) for head in range(4)]
    for row, pattern in zip(table, patterns, strict=True):
        maps = [attention_map(*call, row["head"], batch=b) for b in range(len(x))]
        assert row["keys"] == pytest.approx(np.mean([p.nnz for p in maps]) / 30)
        assert row["entropy"] == pytest.approx(np.mean([entropy(p) for p in maps]))
        for rule in ("window", "global tokens", "sequence"):
            masses = [rule_mass(p, pattern, cu_seqlens=segments)[rule] for p in maps]
            assert row[rule] == pytest.approx(np.mean(masses))
        assert row["window"] + row["global tokens"] + row["sequence"] == pytest.approx(1)


@dataclass(frozen=True, repr=False)
class Twice(Layer):
    """A container of a user: two layers side by side, the first one twice."""

    layers: dict
    direct: bool = False

    def parameters(self):
        return {name: layer.parameters() for name, layer in self.layers.items()}

    def states(self, rng):
        return {name: layer.states(rng) for name, layer in self.layers.items()}

    def forward(self, x, ps, st, memory):
        (one, first), (two, second) = self.layers.items()
        y = first.apply(x, ps[one], st[one], memory)[0] + first.apply(x + 1, ps[one], st[one], memory)[0]
        if self.direct:
            return y + second(x, ps[two], st[two])[0], st, None
        return y + second.apply(x, ps[two], st[two], memory)[0], st, None


def test_attention_is_found_in_a_container_of_the_user(rng):
    x = rng.standard_normal((20, 8), dtype=np.float32)
    layers = {"a": PrimeSelfAttention(8), "b": Chain(relu, SkipConnection(PrimeSelfAttention(8, heads=2)))}
    model = Chain(RMSNorm(8), Twice(layers))
    ps, st = setup(rng, model)
    calls = attention_calls(model, x, ps, st)
    assert list(calls) == ["layer_1/a", "layer_1/a (2)", "layer_1/b/layer_1"]
    np.testing.assert_array_equal(calls["layer_1/a (2)"].x, calls["layer_1/a"].x + 1)
    assert len(attention_summary(model, x, ps, st)) == 4
    model = Chain(RMSNorm(8), Twice(layers, direct=True))
    with pytest.warns(
        UserWarning, match=r"not seen, as not run by apply: \[PrimeSelfAttention\(8, heads=2\)\]"
    ):
        assert list(attention_calls(model, x, ps, st)) == ["layer_1/a", "layer_1/a (2)"]


def test_bad_input(rng):
    with pytest.raises(TypeError, match="model: expected a Layer, got str"):
        attention_calls("model", None, {}, {})
    model = Chain(Dense(4, 4), relu)
    ps, st = setup(rng, model)
    x = rng.standard_normal((5, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="model: expected attention that containers run by apply, got Chain"):
        attention_summary(model, x, ps, st)
    with pytest.raises(ValueError, match="ps"):
        attention_calls(model, x, {}, st)
    with pytest.raises(ValueError, match="expected a state"):
        attention_calls(model, x, ps, {})
