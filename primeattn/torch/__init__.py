"""Sparse causal attention on tensors of torch, on the CPU and the GPU (``pip install 'primeattn[torch]'``).

``attention`` is :func:`primeattn.attention` with gradients, ``SparseAttention`` a module with the projections
of :class:`primeattn.SparseIndexAttention`. Importing this module registers the operators
``primeattn::attend`` and ``primeattn::attend_backward``: a program that was exported with them needs it too.
"""

from primeattn._extras import require as _require

_require("torch")

from primeattn.torch.differentiable import attention
from primeattn.torch.models import gpt2, llama
from primeattn.torch.module import SparseAttention
from primeattn.torch.weights import Source, from_state_dict, from_torch, map_of, to_state_dict, to_torch

__all__ = [
    "Source",
    "SparseAttention",
    "attention",
    "from_state_dict",
    "from_torch",
    "gpt2",
    "llama",
    "map_of",
    "to_state_dict",
    "to_torch",
]
