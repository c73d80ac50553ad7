"""Sparse causal attention in the models of transformers (``pip install 'primeattn[transformers]'``).

``convert`` gives an existing model patterns, which its saved configuration keeps; ``register`` makes a name
for ``attn_implementation``. Importing this module registers the implementation ``"primeattn"``, whose
patterns are those of the configuration: so ``from_pretrained`` brings a converted model back as it was, and
raises an error where this module was not imported.
"""

from __future__ import annotations

import json
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from primeattn._extras import require as _require

if TYPE_CHECKING:
    from primeattn.typing import Patterns

_require("transformers")
_require("torch")

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import causal_mask_function

from primeattn.patterns import Pattern
from primeattn.torch import attention
from primeattn.torch.operators import pattern_text

__all__ = ["convert", "register"]

NAME = "primeattn"  # of the implementation, and of the field of a configuration that holds patterns as JSON
_registered = {}  # patterns by name
_texts = {}  # patterns by text in configurations


def register(name: str, pattern: Patterns) -> None:
    """Make ``attn_implementation=name`` mean attention over a pattern, in every layer.

    For models that use transformers' interface of attention: Llama, GPT-2, Qwen, Gemma, Mistral and what
    follows them. Padding on either side, grouped heads, caches, ``generate`` with all it does, softcaps,
    attention sinks, and dropout in training work. A sequence that is padded on the left counts its positions,
    and so its global tokens, from its first token.

    A saved model does not know the name: give it again when you load, or use `convert`.

    Parameters
    ----------
    name : str
        A new one; or an old one with the same pattern, which changes nothing.
    pattern : Pattern or sequence of Pattern
        One, or one per query head.

    Raises
    ------
    TypeError, ValueError
        For a name that is taken, or that transformers understands otherwise. When a model runs: for sliding
        windows, packed sequences (also as ``position_ids`` that start again), attention to later tokens,
        masks of one's own, padding amid tokens, and ``output_attentions``.

    See Also
    --------
    convert : For models that are saved with their patterns.

    Notes
    -----
    With ``torch.compile`` give the model an ``attention_mask``: without one transformers assumes packed
    sequences there. What is in a mask is then checked by assertions of torch, and ``position_ids`` are not.

    Examples
    --------
    >>> import torch, transformers, primeattn as pa
    >>> pa.transformers.register("primes", pa.Pattern("primes", window=3, global_tokens=2))
    >>> config = transformers.LlamaConfig(
    ...     vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
    ...     num_key_value_heads=2, attn_implementation="primes",
    ... )
    >>> model = transformers.LlamaForCausalLM(config)
    >>> model(torch.arange(20)[None]).logits.shape
    torch.Size([1, 20, 50])
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a str, got {name!r}")
    pattern = _checked(pattern)
    if not name or any(part in name for part in ("eager", "sdpa", "flash", "flex", "paged", "/", "|")):
        raise ValueError(f"name: expected one without a meaning in transformers, got {name!r}")
    if name in AttentionInterface._global_mapping and _registered.get(name) != pattern:
        known = f"the name of {_registered[name]!r}" if name in _registered else "a name that is taken"
        raise ValueError(f"name: expected a new one, got {name!r}, {known}")
    _registered[name] = pattern
    AttentionInterface.register(name, partial(_attend, lambda module: pattern))
    AttentionMaskInterface.register(name, _mask)


def convert(model: Any, pattern: Any) -> Any:
    """Give a model of transformers patterns of attention, in place, and return it.

    Its weights stay. Its configuration gets the patterns as ``config.primeattn``, which is saved with the
    model: after ``import primeattn.transformers``, transformers' own ``from_pretrained`` returns the model
    with its patterns, and warns where another ``attn_implementation`` is asked for. In a program without that
    import it raises an error that names ``"primeattn"``.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Changed in place.
    pattern : Pattern, or sequence
        One for all layers; or a sequence of one for each layer, each a Pattern or a sequence of one per
        query head. It must be one that JSON can hold: not of a plain callable.

    Returns
    -------
    model : transformers.PreTrainedModel
        The one passed in.

    Raises
    ------
    TypeError, ValueError
        For a model that does not use the interface of attention, that has sliding windows or sees later
        tokens, for one of several (such as a vision model in front of a language model), and for wrong
        numbers of patterns. When it runs, as in `register`.

    See Also
    --------
    register : By name, for any model.
    primeattn.torch.llama : A model of this package's layers, with the weights of one.

    Examples
    --------
    >>> import tempfile, torch, transformers, primeattn as pa
    >>> config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    >>> model = transformers.GPT2LMHeadModel(config)
    >>> primes, squares = pa.Pattern("primes", window=3), pa.Pattern("squares", window=3)
    >>> model = pa.transformers.convert(model, [primes, [primes, squares]])  # in the second layer by head
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save_pretrained(folder)
    ...     again = transformers.AutoModelForCausalLM.from_pretrained(folder)
    >>> tokens = torch.arange(30)[None]
    >>> torch.equal(model.eval()(tokens).logits, again.eval()(tokens).logits)
    True
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model: expected a transformers.PreTrainedModel, got {type(model).__name__}")
    config = model.config
    if config.sub_configs:
        raise ValueError(f"model: expected one with one configuration, got parts {list(config.sub_configs)}")
    if not model._can_set_attn_implementation():
        raise ValueError(f"model: expected one with an interface of attention, got {type(model).__name__}")
    _check_layers(model)
    if isinstance(pattern, Pattern):
        saved = _structure(_checked(pattern))
    else:
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        given = list(pattern) if isinstance(pattern, (tuple, list)) else []
        if len(given) != layers:
            expected = f"one Pattern or one for each of {layers} layers"
            raise ValueError(f"pattern: expected {expected}, got {pattern!r}")
        given = [_checked(one) for one in given]
        for number, one in enumerate(given):
            if isinstance(one, tuple) and len(one) != heads:
                expected = f"one Pattern or {heads}, one per head, for layer {number}"
                raise ValueError(f"pattern: expected {expected}, got {one!r}")
        saved = [_structure(one) for one in given]
    model.set_attn_implementation(NAME)
    config.primeattn = json.dumps(saved)
    return model


def _check_layers(model):
    """Refuse what the model would refuse when it runs, with a cure where there is one."""
    config, layers = model.config, model.config.num_hidden_layers
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if not {"sliding_attention", "chunked_attention"}.isdisjoint(kinds or ()):
        raise ValueError(
            f"model: expected one made with config.layer_types = ['full_attention'] * {layers}, as a pattern "
            f"has a window of its own, got {kinds}"
        )
    if kinds is None and window is not None:
        raise ValueError(
            "model: expected one made with config.sliding_window = None, as a pattern has a window of its "
            f"own, got {window}"
        )
    causal = [module.is_causal for module in model.modules() if hasattr(module, "is_causal")]
    if causal and not any(causal):
        raise ValueError(
            f"model: expected causal attention, got {type(model).__name__}, which sees later tokens"
        )


def _checked(pattern):
    """One Pattern, or a tuple of them; all of them such that JSON can hold them."""
    each = tuple(pattern) if isinstance(pattern, (tuple, list)) and len(pattern) else (pattern,)
    for one in each:
        pattern_text(one)
    return pattern if isinstance(pattern, Pattern) else each


def _structure(pattern):
    return pattern.to_json() if isinstance(pattern, Pattern) else [one.to_json() for one in pattern]


def _read(text):
    """A Pattern for all layers, or a list of one for each: the inverse of what `convert` writes."""

    def one(saved):
        return tuple(map(one, saved)) if isinstance(saved, list) else Pattern.from_json(saved)

    saved = json.loads(text)
    return list(map(one, saved)) if isinstance(saved, list) else one(saved)


def _of_configuration(module):
    text = getattr(getattr(module, "config", None), NAME, None)
    if text is None:
        raise ValueError(
            f"attn_implementation: expected a model of primeattn.transformers.convert for {NAME!r}, got a "
            f"{type(module).__name__} without config.{NAME}"
        )
    if text not in _texts:  # as in a new process that got the model by pickle
        _texts[text] = _read(text)
    pattern = _texts[text]
    return pattern[module.layer_idx] if isinstance(pattern, list) else pattern


class _Saved:
    """The field of configurations. Where it is set, also from a file, it asks for the implementation."""

    def __get__(self, config, owner):
        if config is None or NAME not in vars(config):
            raise AttributeError(f"{owner.__name__!r} has no attribute {NAME!r}")
        return vars(config)[NAME]

    def __set__(self, config, text):
        _texts[text] = _read(text)
        # The second is written into the file, too, so that a program that does not know the name stops there.
        vars(config).update({NAME: text, "attn_implementation": NAME})
        if config._attn_implementation is None:
            config._attn_implementation = NAME
        elif config._attn_implementation != NAME:
            found = config._attn_implementation
            message = f"attn_implementation is {found!r}, so that the patterns of config.{NAME} are not used"
            warnings.warn(message, stacklevel=2)


def _mask(
    batch_size,
    q_length,
    kv_length,
    q_offset=0,
    kv_offset=0,
    mask_function=causal_mask_function,
    attention_mask=None,
    local_size=None,
    **options,
):
    """What `_attend` needs instead of a mask: (batch, 1, 1, 5) integers on the CPU.

    For each sequence the position of the first query, of the first token after the padding and of the end of
    the tokens, counted from the first key; the window (0 for none) and the number of keys. Four axes, since
    transformers takes fewer for padding again; new memory, since the offset of a static cache changes.
    """
    if local_size is None and mask_function is not causal_mask_function:
        raise ValueError(
            "mask_function: expected the causal one alone, without packed sequences (position_ids that start "
            f"again), attention to later tokens or other changes, got {mask_function.__qualname__}"
        )
    if local_size is None and kv_offset != 0:
        raise ValueError(f"cache: expected one that keeps all tokens, got one from position {kv_offset} on")
    start = torch.as_tensor(q_offset, device="cpu").reshape(-1).expand(batch_size)
    seen = start + q_length
    if attention_mask is None:
        first, end = torch.zeros_like(start), seen
    else:
        length = attention_mask.shape[-1]
        _expect(
            (seen <= length).all(), "attention_mask: expected one for all tokens so far, also those cached"
        )
        number = torch.arange(length)
        there = attention_mask.cpu().bool()
        count = there.sum(-1)
        first = torch.where(count > 0, there.int().argmax(-1), seen)
        end = first + count
        between = (number >= first[:, None]) & (number < end[:, None])
        _expect((there == between).all(), "attention_mask: expected no padding between tokens of a sequence")
    rest = [torch.full_like(start, number) for number in (local_size or 0, kv_length)]
    return torch.stack([start, first, end, *rest], dim=-1)[:, None, None]


def _expect(condition, message):
    if torch.compiler.is_compiling():
        torch._assert_async(condition, message)
    elif not condition:
        raise ValueError(message)


def _attend(
    pattern_of,
    module,
    query,
    key,
    value,
    attention_mask,
    *,
    scaling=None,
    dropout=0.0,
    softcap=None,
    s_aux=None,
    is_causal=None,
    position_ids=None,
    **options,
):
    """Attention as transformers calls it: ``(batch, n, heads, head_dim), None``."""
    for name in _REFUSED:
        if options.get(name) is not None and options[name] is not False:
            given = options[name]
            raise ValueError(f"{name}: expected None, as attention over a pattern has none, got {given!r}")
    if is_causal is False or not getattr(module, "is_causal", True):
        raise ValueError("is_causal: expected True, as no pattern attends later tokens, got False")
    mask = attention_mask
    if mask is None or mask.dtype != torch.int64 or mask.shape[1:] != (1, 1, 5):
        given = "none" if mask is None else f"{mask.dtype} of shape {tuple(mask.shape)}"
        raise ValueError(
            "attention_mask: expected one of padding, (batch, keys), or None, and a model that makes its "
            f"mask by transformers.masking_utils, got {given}"
        )
    start, first, end, window, keys = mask[:, 0, 0].cpu().unbind(-1)
    _expect((window == 0).all(), "sliding_window: expected None, as a pattern has a window of its own")
    _expect((keys == key.shape[2]).all(), "attention_mask: expected one for all keys of the layer's cache")
    if position_ids is not None and position_ids.ndim == 2 and not torch.compiler.is_compiling():
        _check_positions(position_ids, start, first, end)
    out, lse = attention(
        query,
        key,
        value,
        pattern_of(module),
        scale=scaling,
        q_start=start - first,
        k_start=-first,
        softcap=softcap,
        dropout=dropout,
        dropout_seed=torch.randint(2**63 - 1, ()) if dropout else 0,
        return_lse=True,
    )
    if s_aux is not None:
        out = out * torch.sigmoid(lse - s_aux[:, None]).to(out.dtype)[..., None]
    return out.transpose(1, 2).contiguous(), None


_REFUSED = (
    "sliding_window", "output_attentions", "position_bias", "head_mask", "cu_seq_lens_q", "cu_seq_lens_k",
    "indices", "block_indices", "sinks",
)  # fmt: skip


def _check_positions(position_ids, start, first, end):
    """Refuse packed sequences where a cache hid them from the mask: positions of tokens go up by one."""
    position_ids = position_ids.cpu()
    later = start[:, None] + torch.arange(1, position_ids.shape[1])
    tokens = (later > first[:, None]) & (later < end[:, None])
    if bool((tokens & (position_ids.diff(dim=-1) != 1)).any()):
        raise ValueError(
            "position_ids: expected the next integer for each token, as sequences are not packed"
        )


PreTrainedConfig.primeattn = _Saved()
AttentionInterface.register(NAME, partial(_attend, _of_configuration))
AttentionMaskInterface.register(NAME, _mask)
