"""Llama and GPT-2 with random weights: the layers' logits are those of transformers."""

from functools import partial

import numpy as np
import pytest

import primeattn as pa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pt = pytest.importorskip("primeattn.torch")

DENSE = pa.Pattern(None, window=63)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def llama(**options):
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation="eager", **options,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config), pt.llama(config, DENSE)


def gpt2(**options):
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0,
        attn_implementation="eager", **options,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config), pt.gpt2(config, DENSE)


def in_float64(theirs):
    """Let a Llama of transformers compute in float64 what it else does in float32, whatever its dtype."""
    for norm in theirs.modules():
        if type(norm).__name__ == "LlamaRMSNorm":
            size, eps = norm.weight.shape, norm.variance_epsilon
            norm.forward = partial(
                torch.nn.functional.rms_norm, normalized_shape=size, weight=norm.weight, eps=eps
            )
    turn = theirs.model.rotary_emb
    exponent = torch.arange(0, theirs.config.head_dim, 2).double() / theirs.config.head_dim

    def forward(x, position_ids):
        angle = position_ids[..., None].double() * 10000.0**-exponent
        return angle.cos().repeat(1, 1, 2), angle.sin().repeat(1, 1, 2)

    turn.forward = forward
    theirs.set_attn_implementation("sdpa")  # the softmax of "eager" is one in float32, too


CASES = [
    (llama, {}),
    (llama, {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    (gpt2, {}),
    (gpt2, {"n_inner": 40}),
]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("make, options", CASES)
def test_logits_and_weights(make, options, dtype):
    torch.manual_seed(0)
    theirs, (model, names) = make(**options)
    theirs = theirs.to(dtype).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    if dtype == torch.float64 and make is llama:
        in_float64(theirs)
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    ps = pt.from_state_dict(state, names, model)
    tokens = np.random.default_rng(0).integers(0, 50, (2, 60))
    logits, _ = model(tokens, ps, pa.setup(np.random.default_rng(0), model)[1])
    with torch.no_grad():
        expected = theirs(torch.as_tensor(tokens)).logits
        for parameter in theirs.parameters():
            parameter.zero_()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE[dtype])
    given = pt.to_state_dict(ps, names, state)
    theirs.load_state_dict(given, strict=False)
    assert all(torch.equal(tensor, state[name]) for name, tensor in theirs.state_dict().items())


def test_conv1d():
    module = transformers.pytorch_utils.Conv1D(5, 3)
    x = torch.randn(4, 3)
    y, _ = pa.Dense(3, 5)(x.numpy(), pt.from_torch(module), {})
    np.testing.assert_allclose(y, module(x).detach(), atol=1e-6)


def test_other_settings_are_refused():
    with pytest.raises(ValueError, match=r"^config: expected hidden_act='silu', got 'gelu'"):
        llama(hidden_act="gelu")
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(ValueError, match=r"^config: expected the rope_type 'default', got 'linear'"):
        llama(rope_parameters=scaled)
    with pytest.raises(
        ValueError, match=r"^config: expected scale_attn_by_inverse_layer_idx=False, got True"
    ):
        gpt2(scale_attn_by_inverse_layer_idx=True)
