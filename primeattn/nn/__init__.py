"""Layers in the style of Lux.jl: immutable configuration, explicit parameters and states."""

from primeattn.nn._layer import Layer, setup
from primeattn.nn._parameter import Parameter
from primeattn.nn.activation import Activation, gelu, relu, silu
from primeattn.nn.attention import SparseIndexAttention
from primeattn.nn.cache import copy_cache, with_cache, without_cache
from primeattn.nn.container import Chain, SkipConnection
from primeattn.nn.dense import Dense
from primeattn.nn.dropout import Dropout
from primeattn.nn.embedding import Embedding, PositionalEmbedding
from primeattn.nn.gated import Gated
from primeattn.nn.initializers import Normal, TruncatedNormal, glorot_uniform, he_normal, ones, zeros
from primeattn.nn.norm import LayerNorm, RMSNorm
from primeattn.nn.sequence_attention import MianChowlaSelfAttention, PrimeSelfAttention, SquareSelfAttention
from primeattn.nn.tied import Tied

__all__ = [
    "Activation",
    "Chain",
    "Dense",
    "Dropout",
    "Embedding",
    "Gated",
    "Layer",
    "LayerNorm",
    "MianChowlaSelfAttention",
    "Normal",
    "Parameter",
    "PositionalEmbedding",
    "PrimeSelfAttention",
    "RMSNorm",
    "SkipConnection",
    "SparseIndexAttention",
    "SquareSelfAttention",
    "Tied",
    "TruncatedNormal",
    "copy_cache",
    "gelu",
    "glorot_uniform",
    "he_normal",
    "ones",
    "relu",
    "setup",
    "silu",
    "with_cache",
    "without_cache",
    "zeros",
]
