"""Costs of starting a process: import, compilation, and the first call with a warm disk cache.

Calls are measured in new processes with a disk cache of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import numpy as np

from primeattn.bench.report import table

__all__ = ["run", "text"]

_IMPORT = """
import json, time
import numpy, numba
start = time.perf_counter()
import primeattn
print(json.dumps({"import_s": time.perf_counter() - start}))
"""

_CALLS = """
import json, time
import numpy as np
import primeattn as pa
imported = time.perf_counter()
q, k, v, dout = np.random.default_rng(0).standard_normal((4, 1, 1, 256, 64), dtype=np.float32)
pattern = pa.Pattern("primes", window=3, global_tokens=2)
out, lse = pa.attention(q, k, v, pattern)
forward = time.perf_counter()
grads = [np.empty_like(a) for a in (q, k, v)]
pa.sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, pattern)
print(json.dumps({"forward_s": forward - imported, "backward_s": time.perf_counter() - forward}))
"""


def run(repeats=5) -> dict:
    """Start the processes and return median seconds, in the form written to JSON."""
    imports = [_child(_IMPORT, None)["import_s"] for _ in range(repeats)]
    with tempfile.TemporaryDirectory() as cache:
        cold = _child(_CALLS, cache)
        warm = [_child(_CALLS, cache) for _ in range(repeats)]
    return {
        "benchmark": "startup",
        "settings": {"repeats": repeats, "head_dim": 64, "dtype": "float32"},
        "rows": [
            _row("import primeattn, above numpy and numba", imports),
            _row("first forward of a process, warm disk cache", [run["forward_s"] for run in warm]),
            _row("first backward after it, warm disk cache", [run["backward_s"] for run in warm]),
            _row("first forward and backward, empty cache", [cold["forward_s"] + cold["backward_s"]]),
        ],
    }


def _row(what, seconds):
    median, low, high = np.quantile(seconds, (0.5, 0.25, 0.75)).tolist()
    return {"what": what, "median_s": median, "q1_s": low, "q3_s": high, "calls": len(seconds)}


def _child(code, cache):
    """Run ``code`` in a process whose kernels are cached in the folder ``cache``; return what it prints."""
    environment = dict(os.environ) if cache is None else {**os.environ, "NUMBA_CACHE_DIR": cache}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"startup: a process failed:\n{done.stderr}")
    return json.loads(done.stdout)


def text(results) -> str:
    """Return the results as text."""
    lines = [
        [row["what"], f"{row['median_s']:.3f}", f"{row['q1_s']:.3f} to {row['q3_s']:.3f}", str(row["calls"])]
        for row in results["rows"]
    ]
    return table(["", "seconds", "quartiles", "processes"], lines)
