import pytest

from primeattn import plot
from primeattn.patterns import Pattern


@pytest.mark.parametrize(("n", "wheel", "block"), [(24, 3, 4), (23, 3, 4), (30, 6, 2), (5, 7, 1)])
def test_pairs_tiles_and_their_share(n, wheel, block):
    pattern = Pattern("primes", window=3)
    natural, regrouped = plot.wheel(pattern, n, wheel, block)
    for ax, modulus in ((natural, 1), (regrouped, wheel)):
        kind = ax.images[0].get_array()
        tokens = sorted(range(n), key=lambda i: (i % modulus, i))
        tile = [(i % modulus, i // modulus // block) for i in tokens]
        pairs = {(a, b): i - j > 3 and i - j in (5, 7, 11, 13, 17, 19, 23, 29)
                 for a, i in enumerate(tokens) for b, j in enumerate(tokens)}  # fmt: skip
        live = {(tile[a], tile[b]) for (a, b), attended in pairs.items() if attended}
        causal = {(tile[a], tile[b]) for a, i in enumerate(tokens) for b, j in enumerate(tokens) if i >= j}
        for (a, b), attended in pairs.items():
            of = tile[a], tile[b]
            assert kind[a, b] == (3 if attended else 2 if of in live else 1 if of in causal else 0)
    if n % (wheel * block) == 0:  # all tiles are whole
        all_tiles = n // block * (n // block + 1) / 2
        assert (
            regrouped.get_title() == f"regrouped modulo {wheel}: computes {100 * len(live) / all_tiles:.3g}%"
        )
    assert (regrouped.get_xlabel(), natural.get_xlabel()) == (f"key modulo {wheel}", "key")


def test_too_many_tokens():
    with pytest.raises(ValueError, match="n: expected at most 2048 tokens, got 2049"):
        plot.wheel(Pattern("primes"), 2049, 6)
