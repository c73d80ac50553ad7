"""Sparse, number-theoretic causal attention for NumPy, with hand-written gradients.

Query i attends key j <= i when j is one of the leading global tokens, when i - j is at most the window, or
when i - j is in a sequence such as the primes. See ``Pattern`` for the pattern, ``sparse_index_kernel`` and
``sparse_index_kernel_backward`` for the kernels in place, ``PrimeSelfAttention`` for a layer with explicit
parameters and states, and ``primeattn train --help`` for a model trained on real text.

The package, from the ground up. A file imports from the lines above its own, and from its own folder:

    checks forks files table _config _command       what all may use
    _extras                                         packages that only a bridge needs
    _safetensors                                    arrays in files of that format
    tree workspace                                  nested dicts of arrays; memory kept between steps
    compiled                                        threads, vectors and loops of compiled code
    sequences wheel                                 number theory
    patterns                                        which keys a query attends
    kernels                                         attention: forward, backward
    nn                                              layers
    typing                                          names of types, for annotations
    losses optim check checkpoint data baselines    what training needs
    stepper                                         one training step after another
    language_model                                  a small transformer
    analysis                                        what a pattern is worth
    tasks                                           what a model is to learn
    plot                                            pictures
    train info                                      a whole training run; this machine
    study                                           many runs, compared
    dask jax torch                                  bridges to libraries that are extras
    transformers                                    a bridge on that to torch
    bench                                           speed against peers
    cli                                             the command line
"""

import typing as _typing
from importlib import import_module as _import_module

from primeattn import check, data, kernels, losses, nn, optim, sequences, tree
from primeattn.check import check_gradients
from primeattn.kernels import (
    attention,
    get_num_threads,
    merge,
    set_num_threads,
    sparse_index_kernel,
    sparse_index_kernel_backward,
)
from primeattn.nn import (
    Activation,
    Chain,
    Dense,
    Dropout,
    Embedding,
    Gated,
    Layer,
    LayerNorm,
    MianChowlaSelfAttention,
    Parameter,
    PositionalEmbedding,
    PrimeSelfAttention,
    RMSNorm,
    SkipConnection,
    SparseIndexAttention,
    SquareSelfAttention,
    Tied,
    copy_cache,
    gelu,
    relu,
    setup,
    silu,
    with_cache,
    without_cache,
)
from primeattn.patterns import Pattern
from primeattn.tree import test_mode, train_mode, with_segments
from primeattn.workspace import Workspace

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
    "Parameter",
    "Pattern",
    "PositionalEmbedding",
    "PrimeSelfAttention",
    "RMSNorm",
    "SkipConnection",
    "SparseIndexAttention",
    "SquareSelfAttention",
    "Tied",
    "Workspace",
    "attention",
    "check_gradients",
    "copy_cache",
    "gelu",
    "get_num_threads",
    "merge",
    "relu",
    "set_num_threads",
    "setup",
    "silu",
    "sparse_index_kernel",
    "sparse_index_kernel_backward",
    "test_mode",
    "train_mode",
    "with_cache",
    "with_segments",
    "without_cache",
]

__version__ = "0.2.0"

# Modules that not every user needs are imported at first use.
_LAZY = (
    "analysis",
    "baselines",
    "bench",
    "checkpoint",
    "info",
    "language_model",
    "plot",
    "stepper",
    "study",
    "tasks",
    "train",
    "typing",
)
# So are these, which need a package of their own: ``dir``, and with it ``help``, leaves them out.
_BRIDGES = ("dask", "jax", "torch", "transformers")


if _typing.TYPE_CHECKING:  # tools that read types see them all
    from primeattn import (
        analysis,
        baselines,
        bench,
        checkpoint,
        dask,
        info,
        jax,
        language_model,
        plot,
        stepper,
        study,
        tasks,
        torch,
        train,
        transformers,
        typing,
    )
else:

    def __getattr__(name):
        if name in _LAZY or name in _BRIDGES:
            return _import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY})


def _picture(pattern):
    return _import_module("primeattn.plot.notebook").png(pattern)


def _masks():
    return _import_module("primeattn.torch.masks")


Pattern._draw = staticmethod(_picture)
Pattern._masks = staticmethod(_masks)
