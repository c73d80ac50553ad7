"""Text from converted models: token for token that of eager attention with the whole mask each time."""

import pytest

import primeattn as pa

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pt = pytest.importorskip("primeattn.transformers")

PATTERN = pa.Pattern("primes", window=2, global_tokens=2)
PROMPT, NEW = 17, 8
SIZES = {
    "vocab_size": 50, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32,
    "initializer_range": 0.3, "pad_token_id": 0, "eos_token_id": None, "bos_token_id": None,
}  # fmt: skip
LLAMA = SIZES | {"intermediate_size": 48, "num_key_value_heads": 2}
WAYS = {
    "dynamic cache": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 5},
    "chunked prefill, static cache": {"prefill_chunk_size": 5, "cache_implementation": "static"},
}


def make(family):
    torch.manual_seed(0)
    if family == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval()
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES)).eval()


def prompts(*padding):
    tokens = torch.randint(1, 50, (len(padding), PROMPT))
    there = (torch.arange(PROMPT) >= torch.tensor(padding)[:, None]).long()
    return {"input_ids": tokens * there, "attention_mask": there}


@torch.no_grad()
def by_eager(model, input_ids, attention_mask, pattern=PATTERN):
    """The likeliest continuation of each prompt without its padding, with the mask of the pattern."""
    model.set_attn_implementation("eager")
    rows = []
    for row, there in zip(input_ids, attention_mask.bool(), strict=True):
        row = row[there]
        for _ in range(NEW):
            mask = torch.tensor(pattern.to_dense(len(row)))
            mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)[None, None]
            row = torch.cat([row, model(row[None], attention_mask=mask).logits[0, -1:].argmax(-1)])
        rows.append(row[-NEW:])
    return torch.stack(rows)


def generate(model, inputs, **options):
    text = model.generate(**inputs, max_new_tokens=NEW, do_sample=False, **options)
    return text[:, PROMPT:]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_caches_and_padding(family):
    model, inputs = make(family), prompts(6, 0, 9)
    expected = by_eager(model, **inputs)
    assert not torch.equal(expected, by_eager(model, **inputs, pattern=pa.Pattern(None, window=99)))
    pt.convert(model, PATTERN)
    for name, options in WAYS.items():
        assert torch.equal(generate(model, inputs, **options), expected), name


def test_prompt_lookup():
    model, inputs = make("llama"), prompts(0)
    inputs["input_ids"][0, 9:] = inputs["input_ids"][0, :8]  # something to be found
    expected = by_eager(model, **inputs)
    pt.convert(model, PATTERN)
    assert torch.equal(generate(model, inputs, prompt_lookup_num_tokens=4), expected)


def test_beams_reorder_the_cache():
    model, inputs = make("llama"), prompts(6, 0)
    pt.convert(model, PATTERN)
    text = [generate(model, inputs, num_beams=3, **WAYS[name]) for name in ("no cache", "dynamic cache")]
    assert torch.equal(*text)


def test_a_static_cache_is_used_again():
    model, inputs = make("llama"), prompts(4, 0)
    pt.convert(model, PATTERN)
    cache = transformers.StaticCache(model.config, max_cache_len=40)
    there, tokens = inputs["attention_mask"], inputs["input_ids"]
    positions = (there.cumsum(-1) - 1).clamp(min=0)
    expected = model(**inputs, position_ids=positions).logits[there.bool()]
    for _ in range(2):
        parts = []
        for begin, end in ((0, 3), (3, 11), (11, 12), (12, PROMPT)):
            options = {"attention_mask": there[:, :end], "position_ids": positions[:, begin:end]}
            parts.append(model(tokens[:, begin:end], past_key_values=cache, **options).logits)
        torch.testing.assert_close(torch.cat(parts, 1)[there.bool()], expected, rtol=1e-5, atol=1e-5)
        cache.reset()
