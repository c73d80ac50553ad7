"""Layers compute what the modules compute whose weights they took, and give them back bit for bit."""

import numpy as np
import pytest

import primeattn as pa

torch = pytest.importorskip("torch")
pt = pytest.importorskip("primeattn.torch")

DENSE = pa.Pattern(None, window=63)  # as long as every text here
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def fill(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return module


def separate(dtype, bias):
    sizes = {"q": (16, 24), "k": (16, 12), "v": (16, 12), "o": (24, 16)}
    linears = {name: torch.nn.Linear(*size, bias=bias, dtype=dtype) for name, size in sizes.items()}
    return torch.nn.ModuleDict(linears)


def run_separate(module):
    def run(x):
        q, k, v = (module[name](x).unflatten(-1, (-1, 6)).transpose(1, 2) for name in "qkv")
        k, v = (a.repeat_interleave(2, dim=1) for a in (k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return module["o"](out.transpose(1, 2).flatten(2))

    return run


def run_multihead(module):
    def run(x):
        ahead = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return module(x, x, x, attn_mask=ahead, need_weights=False)[0]

    return run


def cases(dtype):
    nn, to = torch.nn, {"dtype": dtype}
    attention = pa.SparseIndexAttention
    for bias in (True, False):
        multihead = nn.MultiheadAttention(16, 4, bias=bias, batch_first=True, **to)
        yield multihead, attention(16, DENSE, heads=4, bias=bias), run_multihead(multihead)
        apart = separate(dtype, bias)
        layer = attention(16, DENSE, heads=4, kv_heads=2, head_dim=6, bias=bias)
        yield apart, layer, run_separate(apart)
        linear = nn.Linear(16, 5, bias=bias, **to)
        yield linear, pa.Dense(16, 5, bias=bias), linear
    for module, layer in (
        (nn.LayerNorm(16, eps=0.1, **to), pa.LayerNorm(16, eps=0.1)),
        (nn.RMSNorm(16, eps=0.1, **to), pa.RMSNorm(16, eps=0.1)),
        (nn.Embedding(30, 16, **to), pa.Embedding(30, 16)),
    ):
        yield module, layer, module


@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_layer_computes_what_the_module_does(dtype, number):
    torch.manual_seed(0)
    module, layer, run = list(cases(dtype))[number]
    fill(module)
    ps = pt.from_torch(module)
    layer.check_parameters(ps)
    is_table = isinstance(module, torch.nn.Embedding)
    x = torch.randint(30, (2, 40)) if is_table else torch.randn(2, 40, 16, dtype=dtype)
    y, _ = layer(x.numpy(), ps, pa.setup(np.random.default_rng(0), layer)[1])
    assert y.dtype == str(dtype).split(".")[1]
    np.testing.assert_allclose(y, run(x).detach(), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("dtype", [*TOLERANCE, torch.bfloat16, torch.float16], ids=str)
def test_there_and_back_bit_for_bit(dtype, number):
    torch.manual_seed(0)
    module, layer, _ = list(cases(dtype))[number]
    before = {name: tensor.clone() for name, tensor in fill(module).state_dict().items()}
    ps = pt.from_torch(module)
    wide = {torch.float64: np.float64}.get(dtype, np.float32)
    assert {array.dtype for array in pa.tree.flatten(ps).values()} == {np.dtype(wide)}
    fill(module)  # the arrays are copies
    assert pt.to_torch(ps, module) is module
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())
    if dtype in TOLERANCE:
        drawn, _ = pa.setup(np.random.default_rng(1), layer, getattr(np, str(dtype).split(".")[1]))
        back = pt.from_torch(pt.to_torch(drawn, module))
        pa.tree.check(back, drawn)
        pa.tree.map(np.testing.assert_array_equal, back, drawn)


def test_what_no_layer_has_is_refused():
    nn = torch.nn
    with pytest.raises(TypeError, match=r"^module: expected a torch.nn.Module, got int"):
        pt.from_torch(3)
    for module in (
        nn.LayerNorm(8, bias=False), nn.LayerNorm((2, 8)), nn.RMSNorm(8, elementwise_affine=False),
        nn.Embedding(3, 8, max_norm=1.0), nn.Conv1d(3, 3, 1), nn.ModuleDict({"q": nn.Linear(3, 3)}),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=r"^module: expected one that a layer can compute"):
            pt.from_torch(module)
    for options in ({"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 4}):
        with pytest.raises(ValueError, match=r"^module: expected no bias_k, add_zero_attn, kdim or vdim"):
            pt.from_torch(nn.MultiheadAttention(8, 2, **options))
    mixed = nn.ModuleDict({name: nn.Linear(4, 4, bias=name != "o") for name in "qkvo"})
    with pytest.raises(ValueError, match=r"^module: expected a bias in all of q, k, v and o or in none"):
        pt.from_torch(mixed)


def test_parameters_that_do_not_fit_leave_the_module_alone():
    module = torch.nn.Linear(3, 2)
    before = module.weight.clone()
    ps = {"weight": np.zeros((3, 2), np.float32), "bias": np.zeros(2, np.float32)}
    with pytest.raises(ValueError, match=r"^ps: expected the paths \['bias', 'weight'\], got \['weight'\]"):
        pt.to_torch({"weight": ps["weight"]}, module)
    with pytest.raises(ValueError, match=r"^ps: expected \(2, 3\) for 'weight', got \(2, 4\)"):
        pt.to_torch(ps | {"weight": np.zeros((4, 2), np.float32)}, module)
    with pytest.raises(ValueError, match=r"^ps: expected last axis 2 at 'bias'"):
        pt.to_torch(ps | {"bias": np.zeros(3, np.float32)}, module)
    assert torch.equal(module.weight, before)
    with pytest.raises(ValueError, match=r"^state: expected 'bias' for 'bias', got none"):
        pt.from_state_dict({"weight": module.weight}, pt.map_of(module), pa.Dense(3, 2))
    with pytest.raises(ValueError, match=r"^ps/weight: expected shape \(4, 2\), got \(3, 2\)"):
        pt.from_state_dict(module.state_dict(), pt.map_of(module), pa.Dense(4, 2))
