"""What a pattern cannot mean in a model is refused by name; saved models keep their patterns."""

import json
import pickle
import subprocess
import sys
from copy import deepcopy

import pytest

import primeattn as pa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pt = pytest.importorskip("primeattn.transformers")

PATTERN = pa.Pattern("primes", window=2, global_tokens=2)
LAYERS = [PATTERN, (pa.Pattern("2 * primes | squares"), pa.Pattern([3, 7]))]
SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip
TOKENS = torch.arange(1, 11)[None]


def make(family="Llama", head="ForCausalLM", **options):
    config = getattr(transformers, f"{family}Config")(**SIZES | options)
    return getattr(transformers, f"{family}{head}")(config).eval()


@pytest.fixture
def model():
    return pt.convert(make(), PATTERN)


def packed():
    return {"position_ids": torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, 1, 2]])}


def holes():
    there = torch.ones_like(TOKENS)
    there[0, 4] = 0
    return {"attention_mask": there}


CALLS = {
    "packed": (packed() | {"use_cache": False}, "mask_function: expected the causal one alone"),
    "packed, with a cache": (packed(), "position_ids: expected the next integer for each token"),
    "holes": (holes(), "attention_mask: expected no padding between tokens"),
    "mask of one's own": (
        {"attention_mask": torch.ones(1, 1, 10, 10, dtype=torch.bool)},
        r"attention_mask: expected .*, got torch.bool of shape \(1, 1, 10, 10\)",
    ),
    "attentions": ({"output_attentions": True}, "output_attentions"),
    "later tokens": ({"is_causal": False}, r"mask_function: .*bidirectional"),
    "boundaries": ({"cu_seq_lens_q": torch.tensor([0, 4, 10])}, "cu_seq_lens_q: expected None"),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(model, name):
    options, message = CALLS[name]
    with pytest.raises(ValueError, match=message):
        model(TOKENS, **options)


MODELS = {
    "sliding windows": ("Mistral", {"sliding_window": 4096}, "config.sliding_window = None, .* got 4096"),
    "some sliding windows": ("Gemma2", {"head_dim": 16}, r"config.layer_types = \['full_attention'\] \* 2, "),
    "chunks": ("Llama4", {"attention_chunk_size": 4, "num_local_experts": 1}, "got .*chunked_attention"),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    family, options, message = MODELS[name]
    if family == "Llama4":
        config = transformers.Llama4TextConfig(**SIZES | {"intermediate_size_mlp": 48} | options)
        model = transformers.Llama4ForCausalLM(config)
    else:
        model = make(family, **options)
    with pytest.raises(ValueError, match=message):
        pt.convert(model, PATTERN)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("Mistral", {"sliding_window": 4096}, "sliding_window: expected None"),
        ("Gemma2", {"head_dim": 16}, "sliding_window: expected None"),
        ("Llama", {"is_causal": False}, r"mask_function: .*bidirectional"),
        ("Bert", {}, r"mask_function: .*bidirectional"),
    ],
)
def test_models_that_get_a_name(family, options, message):
    pt.register("refused", PATTERN)
    model = make(family, "Model", **options)
    model.set_attn_implementation("refused")
    with pytest.raises(ValueError, match=message):
        model(TOKENS)


def test_an_encoder():
    with pytest.raises(ValueError, match="model: expected causal attention, got BertModel"):
        pt.convert(make("Bert", "Model"), PATTERN)


def test_a_hole_that_only_a_cache_makes(model):
    there = torch.ones_like(TOKENS)
    there[0, 8:] = 0
    cache = model(TOKENS, attention_mask=there).past_key_values
    there = torch.cat([there, torch.ones(1, 1, dtype=torch.long)], 1)
    with pytest.raises(ValueError, match="attention_mask: expected no padding between tokens"):
        model(TOKENS[:, :1], attention_mask=there, past_key_values=cache)


def test_a_mask_without_the_cached_tokens(model):
    cache = model(TOKENS).past_key_values
    with pytest.raises(ValueError, match="attention_mask: expected one for all tokens so far"):
        model(TOKENS[:, :2], attention_mask=torch.ones(1, 2), past_key_values=cache)


def test_a_cache_that_forgets(model):
    config = transformers.MistralConfig(**SIZES, sliding_window=4)
    cache = transformers.DynamicCache(config=config)
    model(TOKENS, past_key_values=cache)
    with pytest.raises(
        ValueError, match="cache: expected one that keeps all tokens, got one from position 7"
    ):
        model(TOKENS[:, :1], past_key_values=cache)


def test_names():
    pt.register("a name of a test", [PATTERN, PATTERN])
    pt.register("a name of a test", (PATTERN, PATTERN))
    with pytest.raises(ValueError, match=r"^name: expected a new one, got 'a name of a test', the name of"):
        pt.register("a name of a test", PATTERN)
    for name in ("sdpa", "eager", "my flash", "paged|x", "owner/kernel", ""):
        with pytest.raises(ValueError, match=r"^name: expected one without a meaning in transformers"):
            pt.register(name, PATTERN)
    with pytest.raises(ValueError, match=r"^name: expected a new one, got 'primeattn', a name that is taken"):
        pt.register("primeattn", PATTERN)
    with pytest.raises(TypeError, match=r"^name: expected a str, got 3"):
        pt.register(3, PATTERN)
    with pytest.raises(TypeError, match=r"^pattern: expected a Pattern or one per head, got 'primes'"):
        pt.register("another name of a test", "primes")


def test_arguments_of_convert(model):
    before = model.config.primeattn
    with pytest.raises(TypeError, match=r"^model: expected a transformers\.PreTrainedModel, got Linear"):
        pt.convert(torch.nn.Linear(2, 2), PATTERN)
    for wrong in ([PATTERN], "primes", []):
        with pytest.raises(ValueError, match=r"^pattern: expected one Pattern or one for each of 2 layers"):
            pt.convert(model, wrong)
    with pytest.raises(ValueError, match=r"^pattern: expected one Pattern or 2, one per head, for layer 1"):
        pt.convert(model, [PATTERN, [PATTERN] * 3])
    with pytest.raises(TypeError, match=r"^pattern: .*JSON.*operators of torch need"):
        pt.convert(model, pa.Pattern(lambda limit: [n for n in (1, 5) if n <= limit]))
    assert model.config.primeattn == before
    parts = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**SIZES),
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
        ),
    )
    with pytest.raises(ValueError, match=r"^model: expected one with one configuration, got parts"):
        pt.convert(transformers.LlavaForConditionalGeneration(parts), PATTERN)


def test_the_implementation_without_patterns():
    with pytest.raises(ValueError, match=r"without config.primeattn"):
        make(attn_implementation="primeattn")(TOKENS)


def test_patterns_in_a_new_configuration(model):
    again = make(primeattn=model.config.primeattn)
    again.load_state_dict(model.state_dict())
    assert again.config._attn_implementation == "primeattn"
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)


def test_wrong_text_in_a_configuration():
    with pytest.raises(ValueError, match=r"expected a dict made by Pattern.to_json"):
        transformers.LlamaConfig(primeattn='{"window": 3}')


def test_a_saved_model_keeps_its_patterns(tmp_path):
    model = pt.convert(make(), LAYERS)
    expected = model(TOKENS).logits
    model.save_pretrained(tmp_path / "1")
    for place in "12":  # what was loaded is saved again
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / place)
        assert again.config._attn_implementation == "primeattn"
        assert torch.equal(again(TOKENS).logits, expected)
        again.save_pretrained(tmp_path / "2")
    for copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copy(TOKENS).logits, expected)


def test_another_implementation_is_not_used_silently(tmp_path):
    pt.convert(make(), LAYERS).save_pretrained(tmp_path)
    load = transformers.AutoModelForCausalLM.from_pretrained
    for options in ({"attn_implementation": "eager"}, {}):  # transformers saves what that option asks for
        with pytest.warns(
            UserWarning, match=r"^attn_implementation is 'eager', so that the patterns of config"
        ):
            other = load(tmp_path, **options)
        assert other.config._attn_implementation == "eager"
        other.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="'sdpa'"):
        make(attn_implementation="sdpa").config.primeattn = other.config.primeattn


@pytest.mark.slow
def test_a_program_without_the_import_stops(tmp_path):
    pt.convert(make(), LAYERS).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["attn_implementation"] == "primeattn"
    load = f"import transformers; transformers.AutoModelForCausalLM.from_pretrained({str(tmp_path)!r})"
    run = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True)
    assert run.returncode and 'attn_implementation="primeattn"` is not supported' in run.stderr


def test_a_layer_that_attends_later_tokens(model):
    model.model.layers[1].self_attn.is_causal = False
    with pytest.raises(ValueError, match="is_causal: expected True"):
        model(TOKENS)


def test_a_mask_for_other_keys(model):
    model.model.layers[1].self_attn.layer_idx = 0  # then the second layer sees the keys of both
    with pytest.raises(ValueError, match="attention_mask: expected one for all keys of the layer's cache"):
        model(TOKENS, use_cache=True)
