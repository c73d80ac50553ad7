"""What a pattern is worth: its cost, the layers it takes, how well it mixes, what hardware can skip.

>>> import primeattn as pa
>>> primes = pa.Pattern("primes", window=3)
>>> h = pa.analysis.hops(primes, 4097)[1:]  # layers that connect the distances 1, ..., 4096
>>> [round(float(((0 < h) & (h <= layers)).mean()), 3) for layers in (1, 2, 3)]
[0.138, 0.749, 1.0]

``compare`` puts patterns side by side. ``controls`` lists what a pattern has to beat at its own cost, and
``match_budget`` makes patterns cost the same. The fairest controls are equally many random offsets at every
scale; ``sequences.matched_random(S, seed)`` is such a sequence, without equal pairs.
"""

from primeattn.analysis.attention import attention_map, entropy
from primeattn.analysis.budget import counting_bound, efficiency, match_budget
from primeattn.analysis.catalogue import catalogue
from primeattn.analysis.comparison import compare, reach_by_layer
from primeattn.analysis.controls import controls
from primeattn.analysis.costs import Traffic, asymptotic_pairs, cost, flops, traffic
from primeattn.analysis.models import LayerCall, attention_calls, attention_summary
from primeattn.analysis.paths import redundancy, two_hop_paths
from primeattn.analysis.reach import hops, receptive_field
from primeattn.analysis.residues import residue_coverage
from primeattn.analysis.rules import Explanation, explain, rule_mass
from primeattn.analysis.spectral import Extremes, extreme_eigenvalues, laplacian, spectrum
from primeattn.analysis.tiling import tile_occupancy, wheel_fraction
from primeattn.table import Table

__all__ = [
    "Explanation",
    "Extremes",
    "LayerCall",
    "Table",
    "Traffic",
    "asymptotic_pairs",
    "attention_calls",
    "attention_map",
    "attention_summary",
    "catalogue",
    "compare",
    "controls",
    "cost",
    "counting_bound",
    "efficiency",
    "entropy",
    "explain",
    "extreme_eigenvalues",
    "flops",
    "hops",
    "laplacian",
    "match_budget",
    "reach_by_layer",
    "receptive_field",
    "redundancy",
    "residue_coverage",
    "rule_mass",
    "spectrum",
    "tile_occupancy",
    "traffic",
    "two_hop_paths",
    "wheel_fraction",
]
