"""The kernel that appends rows to a cache: its machine code, and the PTX that really runs, interpreted.

Needs no GPU, but the compilers of the extra ``gpu-test``; skipped without them.
"""

import contextlib
import re
from dataclasses import replace

import numpy as np
import pytest
from appending import appended
from interpreted import interpreted
from ptx_memory import Fault
from runtime_path import CAPABILITIES
from test_ptx import compiled

import primeattn as pa
from primeattn.kernels.gpu.append import make_append

targets = pytest.mark.parametrize("capability", CAPABILITIES, ids=CAPABILITIES.get)


@targets
@pytest.mark.parametrize("storage", ["float32", "float64"])
def test_it_compiles_to_few_registers(storage, capability):
    ptx, code = compiled(make_append(storage), 7, 0, capability)
    assert code.registers <= 40 and code.shared <= 0
    assert (".f64" in ptx) == (storage == "float64")


@targets
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_go_where_they_belong_and_nowhere_else(dtype, capability, rng):
    assert np.array_equal(*appended(interpreted(capability), dtype, rng))


def test_a_row_of_a_position_below_0_that_is_written_is_noticed(rng):
    def change(name, ptx):
        """Without the branch around the copy."""
        altered, count = re.subn(r"(\n\tsetp\.lt\.s64\s+(%p\d+), %rd\d+, 0;)\n\t@\2 bra[^\n]*", r"\1", ptx)
        assert count == 1
        return altered

    with contextlib.suppress(Fault):
        assert not np.array_equal(*appended(interpreted((9, 0), change=change), np.float32, rng))


@targets
def test_a_layer_goes_on_as_one_call(capability, rng):
    options = {"heads": 2, "kv_heads": 1, "rotary": 100.0}
    layer = pa.PrimeSelfAttention(16, **options, device="cuda")
    ps, st = pa.setup(rng, layer)
    x, parts = rng.standard_normal((2, 9, 16), dtype=np.float32), []
    with interpreted(capability) as machine:
        cached = pa.with_cache(layer, st, 2, 9, start=[0, -3])
        for begin, end in ((0, 5), (5, 6), (6, 9)):
            y, cached = layer(x[:, begin:end], ps, cached)
            parts.append(y)
    assert machine.executed.keys() == {"append_rows", "forward"}
    y, on_cpu = np.concatenate(parts, axis=1), replace(layer, device="cpu")
    for b, missing in enumerate((0, 3)):
        alone, _ = on_cpu(x[b : b + 1, missing:], ps, st)
        np.testing.assert_allclose(y[b, missing:], alone[0], atol=2e-6)
