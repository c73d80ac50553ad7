"""A training step of a random Llama of transformers: the primes against sdpa over all causal pairs."""

from __future__ import annotations

from primeattn.bench.report import CROWDED, crowded, milliseconds, number, table
from primeattn.bench.timing import as_seconds, as_sizes, interleave, thread_count, watched
from primeattn.kernels import get_num_threads
from primeattn.patterns import Pattern

__all__ = ["run", "steps", "text"]

PRIMES = Pattern("primes", window=3, global_tokens=2)
SIZES = {
    "vocab_size": 256, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "use_cache": False,
}  # fmt: skip
NOTES = (
    "model: a Llama of 4 layers, width 256, 4 heads of 64, an MLP of 688 and 256 tokens; batch 1",
    "step: forward, cross-entropy, backward and torch's fused AdamW, eager, in float32, from the same "
    "parameters; sdpa is torch's attention as transformers calls it, over all causal pairs",
    CROWDED,
)


def steps(n, pattern=PRIMES, **sizes) -> dict:
    """Return two callables, each a training step that returns the loss: "primeattn" and "sdpa".

    Parameters
    ----------
    n : int
        Tokens of the one sequence.
    pattern : Pattern
    **sizes
        Of the ``transformers.LlamaConfig``, instead of those above.
    """
    try:
        from primeattn.transformers import convert
    except ModuleNotFoundError as error:
        raise RuntimeError(str(error)) from None
    import torch
    import transformers

    def step_of(implementation):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**SIZES | sizes, attn_implementation="sdpa")
        model = transformers.LlamaForCausalLM(config).train()
        if implementation == "primeattn":
            convert(model, pattern)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        text = torch.randint(config.vocab_size, (1, n))

        def step():
            optimizer.zero_grad(set_to_none=True)
            loss = model(text, labels=text).loss
            loss.backward()
            optimizer.step()
            return loss.item()

        return step

    return {name: step_of(name) for name in ("primeattn", "sdpa")}


def run(*, n=None, threads=None, budget=None, quick=False) -> dict:
    """Time training steps and return the results, in the form written to JSON.

    Parameters
    ----------
    n, threads : sequence of int, optional
        Lengths of the sequence, 4096 by default, and numbers of threads, by default as many as the kernels
        use.
    budget : float, optional
        Seconds for each, 60 by default.
    quick : bool
        Smaller defaults.
    """
    lengths = as_sizes("n", n, (256,) if quick else (4096,))
    threads = as_sizes("threads", threads, (get_num_threads(),))
    budget = as_seconds("budget", budget, 3 if quick else 60)
    rows = []
    for count in threads:
        for length in lengths:
            calls = steps(length)
            import torch

            with thread_count(count, torch):
                timings, others = watched(lambda calls=calls: interleave(calls, budget))
            row = {name: timing.as_row() for name, timing in timings.items()}
            speedup = timings["sdpa"].median / timings["primeattn"].median
            rows.append({"threads": count, "n": length, **row, "speedup": speedup, "cores_of_others": others})
    return {
        "benchmark": "llama",
        "settings": {"n": lengths, "threads": threads, "budget_s": budget, "quick": quick},
        "notes": list(NOTES),
        "rows": rows,
    }


def text(results) -> str:
    """Return the results as text."""
    header = ["context", "threads", "primeattn, ms", "sdpa, ms", "times faster"]
    lines = [
        [
            f"{row['n']}{crowded(row)}", str(row["threads"]),
            milliseconds(row["primeattn"]), milliseconds(row["sdpa"]), number(row["speedup"]),
        ]
        for row in results["rows"]
    ]  # fmt: skip
    heading = "training step of a Llama: milliseconds, median ± half the distance of the quartiles"
    return "\n".join([heading, table(header, lines), "", *(f"- {note}" for note in results["notes"])])
