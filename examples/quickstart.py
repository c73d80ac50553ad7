"""
A model, trained
================

Train a small language model with prime attention on Python's own source code, in about a minute.

``python examples/quickstart.py [OUTPUT]``

.. image:: ../../figures/quickstart.png
   :alt: Mask and training loss
"""

# sphinx_gallery_thumbnail_path = "../figures/quickstart.png"

import math

import numpy as np
from _save import save
from matplotlib.figure import Figure

import primeattn as pa
from primeattn.compiled.blas import one_blas_thread
from primeattn.language_model import evaluate, generate, sinusoids
from primeattn.nn.initializers import Normal

WIDTH, CONTEXT, STEPS = 96, 128, 1200

# A text, cut into windows of CONTEXT bytes; 128 KiB of it are held out.
corpus = pa.data.load_corpus()
batches = pa.data.Batches(corpus.train, batch=8, context=CONTEXT, seed=0)

# A model is configuration and holds no numbers. Token i attends itself, the 3 before it, tokens 0 and 1, and
# every token at a prime distance.
attention = pa.PrimeSelfAttention(WIDTH, heads=3, window=3, global_tokens=2)
mlp = pa.Chain(pa.Dense(WIDTH, 4 * WIDTH), pa.gelu, pa.Dense(4 * WIDTH, WIDTH))
model = pa.Chain(
    pa.Embedding(256, WIDTH, previous=1, init=Normal(0.2)),  # each byte together with the one before it
    pa.PositionalEmbedding(CONTEXT, WIDTH, init=sinusoids),
    pa.SkipConnection(pa.Chain(pa.RMSNorm(WIDTH), attention)),
    pa.SkipConnection(pa.Chain(pa.RMSNorm(WIDTH), mlp)),
    pa.RMSNorm(WIDTH),
    pa.Dense(WIDTH, 256),
)
print(model, f"{model.parameter_count:,} parameters", sep="\n")

# Parameters and states are nested dicts of arrays. pullback carries the gradient of the output back.
ps, st = pa.setup(np.random.default_rng(0), model)
optimizer = pa.optim.AdamW(lr=4e-3)
moments = optimizer.init(ps)
workspace = pa.Workspace()  # memory that every step uses again
losses = []
with one_blas_thread():  # quicker for products as small as these
    for step in range(STEPS):
        workspace.reset()
        tokens, targets = next(batches)
        logits, st, pullback = model.pullback(tokens, ps, st, workspace=workspace)
        loss, dlogits = pa.losses.cross_entropy(logits, targets, workspace=workspace)
        _, grads = pullback(dlogits)
        grads, _ = pa.optim.clip_by_global_norm(grads, 1.0, out=grads)
        rate = pa.optim.warmup_cosine(step, base_lr=optimizer.lr, warmup=60, total=STEPS)
        optimizer.update(ps, grads, moments, lr=rate, out=(ps, moments))
        losses.append(loss / math.log(2))
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}: {np.mean(losses[-200:]):.3f} bits per byte")

# Every held-out byte is scored once, by the model and by counts of which byte follows which two.
bits = evaluate(model, ps, st, corpus.heldout, CONTEXT)
counts = pa.baselines.CountModel(corpus.train, order=2).bits(corpus.heldout).mean()
print(f"held-out text: {bits:.3f} bits per byte, order-2 counts {counts:.3f}")
written = generate(model, ps, st, b"\n", 300, rng=0, context=CONTEXT, slide=True)
print(written.decode("utf-8", "replace"))

left, right = Figure(figsize=(11, 4.4), layout="constrained").subplots(1, 2)
pa.plot.mask(attention.pattern, 64, ax=left)
pa.plot.loss_curve(losses, levels={"order-2 counts": counts, "held-out": bits}, ax=right)
save(left.figure, "quickstart")
