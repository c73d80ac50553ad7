"""Random tiny models of transformers: logits and gradients are those of eager attention with the mask."""

import numpy as np
import pytest

import primeattn as pa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pt = pytest.importorskip("primeattn.transformers")

PATTERN = pa.Pattern("primes", window=2, global_tokens=2)
EACH = (PATTERN, pa.Pattern("squares"), PATTERN, pa.Pattern([2, 5], window=1))
SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.1,
    "pad_token_id": 0, "eos_token_id": None,
}  # fmt: skip
GPT2 = {
    "vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.1,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
FULL = {"layer_types": ["full_attention"] * 2}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1, "rope_parameters": {"rope_theta": 1e4}}
MODELS = {
    "llama": ("Llama", SIZES),
    "gpt2": ("GPT2", GPT2),
    "qwen2": ("Qwen2", SIZES),
    "qwen3": ("Qwen3", SIZES),
    "gemma": ("Gemma", SIZES),
    "gemma2, with softcap": ("Gemma2", SIZES | FULL | {"attn_logit_softcapping": 0.5}),
    "mistral": ("Mistral", SIZES | {"sliding_window": None}),
    "gpt-oss, with sinks": ("GptOss", SIZES | FULL | EXPERTS),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(name, **options):
    family, sizes = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**sizes | options)
    head = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
    model = getattr(transformers, head)(config).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("sinks"):
            torch.nn.init.normal_(parameter)
    return model


def tokens(batch=2, length=21):
    return torch.randint(1, 50, (batch, length))


def additive(patterns, padding, length):
    """The mask of a pattern, or of one per head, for sequences with ``padding`` before them."""
    masks = np.zeros((len(padding), len(patterns), length, length), bool)
    for mask, pads in zip(masks, padding, strict=True):
        for head, pattern in zip(mask, patterns, strict=True):
            head[pads:, pads:] = pattern.to_dense(length - pads)
    return torch.where(torch.tensor(masks), 0.0, torch.finfo(torch.float32).min)


def present(padding, length):
    return (torch.arange(length) >= torch.tensor(padding)[:, None]).long()


def positions(there):
    return (there.cumsum(-1) - 1).clamp(min=0)


def with_eager(model, tokens, patterns, padding=(0, 0)):
    model.set_attn_implementation("eager")
    there = present(padding, tokens.shape[1])
    mask = additive(patterns, padding, tokens.shape[1])
    return outcome(model, there, input_ids=tokens, attention_mask=mask, position_ids=positions(there))


def outcome(model, there, compiled=None, **inputs):
    """Logits of the tokens, and gradients of all parameters from a loss of these logits."""
    model.zero_grad()
    logits = (model if compiled is None else compiled)(**inputs).logits[there.bool()]
    logits.sin().sum().backward()
    return logits.detach(), {name: x.grad.clone() for name, x in model.named_parameters()}


def assert_close(got, expected):
    torch.testing.assert_close(got[0], expected[0], rtol=1e-6, atol=1e-6)
    for name, gradient in expected[1].items():
        scale = 1 + gradient.abs().max().item()
        torch.testing.assert_close(got[1][name], gradient, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("patterns", [(PATTERN,), EACH], ids=["one", "per head"])
def test_logits_and_gradients_are_those_of_eager(name, patterns):
    model, x = make(name), tokens()
    expected = with_eager(model, x, patterns)
    assert (expected[0] - with_eager(model, x, [pa.Pattern(None, window=30)])[0]).abs().max() > 1e-3
    pt.convert(model, patterns[0] if len(patterns) == 1 else [patterns] * 2)
    assert_close(outcome(model, present((0, 0), 21), input_ids=x), expected)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_padding_on_the_left_moves_the_positions(name):
    model, x, padding = make(name), tokens(), (5, 0)
    there = present(padding, 21)
    expected = with_eager(model, x, [PATTERN], padding)
    pt.convert(model, PATTERN)
    inputs = {"input_ids": x, "attention_mask": there, "position_ids": positions(there)}
    assert_close(outcome(model, there, **inputs), expected)
    alone = model(x[:1, 5:]).logits[0]
    torch.testing.assert_close(model(**inputs).logits[0, 5:], alone, rtol=1e-6, atol=1e-6)


def test_padding_on_the_right_is_seen_by_no_token():
    model, x = pt.convert(make("llama"), PATTERN), tokens()
    there = torch.ones_like(x)
    there[0, 15:] = 0
    for inputs in ({}, {"position_ids": positions(there) * there}):
        logits = model(x, attention_mask=there, **inputs).logits
        torch.testing.assert_close(logits[0, :15], model(x[:1, :15]).logits[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(logits[1], model(x[1:]).logits[0], rtol=1e-6, atol=1e-6)


def test_each_layer_has_its_own_pattern():
    model, x = make("llama"), tokens()
    dense = pa.Pattern(None, window=63)
    by_layer = [dense, PATTERN], [PATTERN, dense], [PATTERN, PATTERN], [[PATTERN, dense] * 2, PATTERN]
    logits = [pt.convert(model, patterns)(x).logits for patterns in by_layer]
    both = pt.convert(model, PATTERN)(x).logits
    assert torch.equal(logits[2], both)
    logits.pop(2)
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate([*logits, both]) for b in logits[:i])
    model.model.layers[0].self_attn.layer_idx = 1  # then the first layer has the pattern of the second
    assert torch.equal(pt.convert(model, by_layer[0])(x, use_cache=False).logits, both)


def test_a_registered_name():
    pt.register("primes, of a test", PATTERN)
    model, x = make("qwen2"), tokens()
    expected = pt.convert(model, PATTERN)(x).logits
    model.set_attn_implementation("sdpa")
    assert not torch.allclose(model(x).logits, expected, atol=1e-3)
    model.set_attn_implementation("primes, of a test")
    assert torch.equal(model(x).logits, expected)


def test_dropout_of_attention_draws_from_torch():
    model, x = pt.convert(make("llama", attention_dropout=0.3), PATTERN), tokens()
    plain = model(x).logits
    model.train()
    torch.manual_seed(1)
    first, second = model(x).logits, model(x).logits
    torch.manual_seed(1)
    assert torch.equal(model(x).logits, first) and not torch.equal(first, second)
    assert not torch.equal(first, plain)
    # A checkpoint computes its part again, with the same seed.
    there, model.config.use_cache = torch.ones_like(x), False
    torch.manual_seed(1)
    expected = outcome(model, there, input_ids=x)
    model.gradient_checkpointing_enable()
    torch.manual_seed(1)
    assert_close(outcome(model, there, input_ids=x), expected)


def test_bfloat16():
    model, x = make("llama"), tokens()
    pt.convert(model, PATTERN)
    expected = model(x).logits
    got = model.to(torch.bfloat16)(x).logits
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_compiled_model(name):
    model, x, there = pt.convert(make(name, use_cache=False), [PATTERN, EACH]), tokens(), present((5, 0), 21)
    inputs = {"input_ids": x, "attention_mask": there}
    expected = outcome(model, there, **inputs)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert_close(outcome(model, there, compiled, **inputs), expected)
    there[1, 7] = 0
    with pytest.raises(RuntimeError, match="expected no padding between tokens"):
        compiled(**inputs)
