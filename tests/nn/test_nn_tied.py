import numpy as np
import pytest

from primeattn import checkpoint, tree
from primeattn.analysis import attention_calls
from primeattn.nn import Chain, Dense, Embedding, PrimeSelfAttention, RMSNorm, Tied, setup
from primeattn.optim import AdamW
from primeattn.workspace import Workspace

MODEL = Tied(Embedding(7, 8, previous=1), Chain(PrimeSelfAttention(8, heads=2), RMSNorm(8)))
TOKENS = np.array([[0, 3, 6, 6, 1], [2, 2, 5, 0, 4]])


def test_logits_are_products_with_the_vectors_of_the_tokens(rng):
    ps, st = setup(rng, MODEL, np.float64)
    inner = Chain(embedding=MODEL.embedding, layer=MODEL.layer)
    logits, new_st = MODEL(TOKENS, ps, st)
    np.testing.assert_allclose(logits, inner(TOKENS, ps, st)[0] @ ps["embedding"]["weight"].T, rtol=1e-13)
    assert list(ps) == list(new_st) == ["embedding", "layer"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_is_the_sum_of_those_of_both_uses(dtype, rng):
    ps, st = setup(rng, MODEL, dtype)
    weight = ps["embedding"]["weight"]
    apart = Chain(embedding=MODEL.embedding, layer=MODEL.layer, head=Dense(8, 7, bias=False))
    dy = rng.standard_normal((*TOKENS.shape, 7)).astype(dtype)
    _, _, pullback = apart.pullback(TOKENS, ps | {"head": {"weight": weight.T.copy()}}, st | {"head": {}})
    _, expected = pullback(dy)
    for workspace in (None, Workspace()):
        dx, dps = MODEL.pullback(TOKENS, ps, st, workspace=workspace)[2](dy)
        tree.check(dps, ps)
        assert dx is None
        total = expected["embedding"]["weight"] + expected["head"]["weight"].T
        np.testing.assert_allclose(dps["embedding"]["weight"], total, rtol=0, atol=20 * np.finfo(dtype).eps)
        np.testing.assert_array_equal(dps["embedding"]["previous"], expected["embedding"]["previous"])


def test_optimiser_and_checkpoint_see_one_weight(rng, tmp_path):
    ps, st = setup(rng, MODEL)
    assert MODEL.parameter_count == sum(leaf.size for leaf in tree.flatten(ps).values()) == 2 * 56 + 256 + 8
    opt = AdamW(lr=1e-3)
    logits, _, pullback = MODEL.pullback(TOKENS, ps, st)
    new, state = opt.update(ps, pullback(logits)[1], opt.init(ps))
    after = MODEL(TOKENS, new, st)[0]
    assert np.square(after).sum() < np.square(logits).sum()
    saved = {"parameters": new, "optimiser": state}
    checkpoint.save(tmp_path / "tied.npz", saved, MODEL)
    loaded = checkpoint.load(tmp_path / "tied.npz", like=saved, model=MODEL)
    assert np.array_equal(MODEL(TOKENS, loaded["parameters"], st)[0], after)


def test_attention_within_is_found(rng):
    ps, st = setup(rng, MODEL)
    assert list(attention_calls(MODEL, TOKENS, ps, st)) == ["layer/layer_0"]


def test_repr():
    assert repr(Tied(Embedding(7, 8), RMSNorm(8))) == "Tied(Embedding(7, 8), RMSNorm(8))"


def test_refuses(rng):
    with pytest.raises(TypeError, match=r"Tied: embedding must be an Embedding, got Dense\(7, 8\)"):
        Tied(Dense(7, 8), RMSNorm(8))
    with pytest.raises(TypeError, match="Tied: layer must be a Layer, got"):
        Tied(Embedding(7, 8), np.tanh)
    misfit = Tied(Embedding(7, 8), Dense(8, 5))
    with pytest.raises(ValueError, match=r"Tied: the layer must give last axis 8 .* got shape \(2, 5, 5\)"):
        misfit(TOKENS, *setup(rng, misfit))
