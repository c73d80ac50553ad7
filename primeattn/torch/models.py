"""Llama and GPT-2 as models of layers, with the maps of their weights in transformers' state dicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from primeattn.nn import (
    Chain,
    Dense,
    Embedding,
    Gated,
    LayerNorm,
    PositionalEmbedding,
    RMSNorm,
    SkipConnection,
    SparseIndexAttention,
    Tied,
    gelu,
    silu,
)
from primeattn.torch.weights import Source, below, conv1d, layer_norm, linear, projections, rms_norm, within

if TYPE_CHECKING:
    from primeattn.typing import Patterns

__all__ = ["gpt2", "llama"]


def llama(config: Any, pattern: Patterns) -> tuple[Chain | Tied, dict[str, Source]]:
    """Return the model of a Llama and the map of its weights: ``model, names``.

    Parameters
    ----------
    config : transformers.LlamaConfig
        Or any object with these attributes.
    pattern : Pattern, or sequence of Pattern
        Of every layer. With a window as long as the text, the model computes what the original does.

    Returns
    -------
    model : Chain or Tied
        Tokens (batch, seq) -> logits (batch, seq, vocabulary).
    names : dict
        For `from_state_dict` and `to_state_dict`.

    Raises
    ------
    ValueError
        For settings that the layers do not have.

    See Also
    --------
    gpt2 : The same for a GPT-2.
    from_state_dict : Takes the map.

    Examples
    --------
    >>> import primeattn as pa
    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(
    ...     vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
    ...     num_key_value_heads=2, head_dim=8, hidden_act="silu", rms_norm_eps=1e-6, attention_bias=False,
    ...     mlp_bias=False, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    ...     tie_word_embeddings=False,
    ... )
    >>> model, names = pa.torch.llama(config, pa.Pattern("primes", window=3))
    >>> model.parameter_count, names["layer_1/layer_1/Wo/weight"]
    (10976, Source(names=('model.layers.0.self_attn.o_proj.weight',), transposed=True))
    """
    rope = config.rope_parameters
    _expect(config, hidden_act="silu")
    if rope["rope_type"] != "default":
        raise ValueError(f"config: expected the rope_type 'default', got {rope['rope_type']!r}")
    width, hidden, eps = config.hidden_size, config.intermediate_size, config.rms_norm_eps
    biased, mlp_biased = config.attention_bias, config.mlp_bias
    attention = SparseIndexAttention(
        width,
        pattern,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        rotary=rope["rope_theta"],
        bias=biased,
    )
    gate = Chain(Dense(width, hidden, bias=mlp_biased), silu)
    mlp = Gated(gate, Dense(width, hidden, bias=mlp_biased)), Dense(hidden, width, bias=mlp_biased)
    block = (
        SkipConnection(Chain(RMSNorm(width, eps), attention)),
        SkipConnection(Chain(RMSNorm(width, eps), *mlp)),
    )
    attended = projections(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj", biased
    )
    names = (
        {"layer_0/": within("input_layernorm.", rms_norm()), "layer_1/": attended},
        {
            "layer_0/": within("post_attention_layernorm.", rms_norm()),
            "layer_1/gate/layer_0/": linear("mlp.gate_proj", bias=mlp_biased),
            "layer_1/value/": linear("mlp.up_proj", bias=mlp_biased),
            "layer_2/": linear("mlp.down_proj", bias=mlp_biased),
        },
    )
    norm = RMSNorm(width, eps), within("model.norm.", rms_norm())
    embedding = Embedding(config.vocab_size, width)
    tied = config.tie_word_embeddings
    body = _body(config.num_hidden_layers, block, names, "model.layers", norm, first=0 if tied else 1)
    table = {"weight": Source(("model.embed_tokens.weight",))}
    if tied:
        return _tied(embedding, table, *body)
    head = f"layer_{len(body[0]) + 1}/"
    model = Chain(embedding, *body[0], Dense(width, config.vocab_size, bias=False))
    return model, below({"layer_0/": table, "": body[1], head: linear("lm_head")})


def gpt2(config: Any, pattern: Patterns) -> tuple[Chain | Tied, dict[str, Source]]:
    """Return the model of a GPT-2 and the map of its weights: ``model, names``, as in `llama`.

    Parameters
    ----------
    config : transformers.GPT2Config
        Or any object with these attributes. Its dropout is left out.
    pattern : Pattern, or sequence of Pattern
        Of every layer, as in `llama`.

    Returns
    -------
    model : Chain or Tied
        Tokens (batch, seq) -> logits (batch, seq, vocabulary).
    names : dict
        For `from_state_dict` and `to_state_dict`.

    See Also
    --------
    llama : The same for a Llama.

    Examples
    --------
    >>> import primeattn as pa
    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(
    ...     vocab_size=50, n_embd=32, n_layer=1, n_head=4, n_positions=64, n_inner=None,
    ...     activation_function="gelu_new", layer_norm_epsilon=1e-5, scale_attn_weights=True,
    ...     scale_attn_by_inverse_layer_idx=False, add_cross_attention=False, tie_word_embeddings=True,
    ... )
    >>> model, names = pa.torch.gpt2(config, pa.Pattern("primes", window=3))
    >>> model.parameter_count, names["layer/layer_0/weight"].names
    (16416, ('transformer.wpe.weight',))
    """
    _expect(
        config,
        activation_function="gelu_new",
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
        tie_word_embeddings=True,
    )
    width, eps = config.n_embd, config.layer_norm_epsilon
    hidden = 4 * width if config.n_inner is None else config.n_inner
    attention = SparseIndexAttention(width, pattern, heads=config.n_head, bias=True)
    mlp = Dense(width, hidden), gelu, Dense(hidden, width)
    block = (
        SkipConnection(Chain(LayerNorm(width, eps), attention)),
        SkipConnection(Chain(LayerNorm(width, eps), *mlp)),
    )
    names = (
        {
            "layer_0/": within("ln_1.", layer_norm()),
            "layer_1/Wi/": within("attn.c_attn.", conv1d()),
            "layer_1/Wo/": within("attn.c_proj.", conv1d()),
        },
        {
            "layer_0/": within("ln_2.", layer_norm()),
            "layer_1/": within("mlp.c_fc.", conv1d()),
            "layer_3/": within("mlp.c_proj.", conv1d()),
        },
    )
    norm = LayerNorm(width, eps), within("transformer.ln_f.", layer_norm())
    layers, map_of_body = _body(config.n_layer, block, names, "transformer.h", norm, first=1)
    positions = {"layer_0/weight": Source(("transformer.wpe.weight",))}
    embedding = Embedding(config.vocab_size, width)
    table = {"weight": Source(("transformer.wte.weight",))}
    body = PositionalEmbedding(config.n_positions, width), *layers
    return _tied(embedding, table, body, positions | map_of_body)


def _expect(config, **expected):
    for name, value in expected.items():
        got = getattr(config, name)
        if got != value:
            raise ValueError(f"config: expected {name}={value!r}, got {got!r}")


def _body(depth, block, names, prefix, norm, first):
    """Layers and map of ``depth`` blocks of two parts, and a norm; ``first`` is the number of the first."""
    nested = {}
    for i in range(depth):
        for part, maps in enumerate(names):
            nested[f"layer_{first + 2 * i + part}/"] = within(f"{prefix}.{i}.", below(maps))
    nested[f"layer_{first + 2 * depth}/"] = norm[1]
    return (*block * depth, norm[0]), below(nested)


def _tied(embedding, table, layers, names):
    return Tied(embedding, Chain(*layers)), below({"embedding/": table, "layer/": names})
