"""The wheel: positions grouped by residue, so that sparse patterns with arithmetic in them make dense tiles.

In natural order every 64×64 tile of the mask of the primes holds a prime, so that hardware which computes
square tiles can skip none. But a prime that does not divide m is coprime to m. Group the positions by their
residue modulo m, the *wheel*: a query of class a meets a key of class b only if gcd(a - b, m) = 1, and of
all pairs of classes phi(m) / m remain, 1/3 for m = 6 and 4/15 for m = 30. Rows of a class are m rows apart
in memory, which is where they are read: nothing is permuted.

Between two classes the mask is Toeplitz. Row u of class a and row s of class b are (a - b) + (u - s) m
apart, so that one bitmask for each a - b says it all, and the mask of a tile is a window of it: a few words,
of which a thread shifts its bits into place once for each tile. All bitmasks together have about 2 n bits,
and all heads share them. Small primes, the window and the global tokens belong to no class; queries
meet them one by one, as *singles*, before the tiles.

The bitmasks are made of any set of offsets, and a tile is live if its window has a bit: the kernel is not
about primes. Squares have few residues too, 16 of 144, and do well with m = 48 or 144; what has no
arithmetic in it, as Mian-Chowla's sequence, is for "gather". Which classes are worth tiles, which m, and
which kernel, a model of instruction counts decides. See :mod:`primeattn.wheel.tables` for the tables,
:func:`primeattn.analysis.wheel_fraction` for what remains, ``primeattn.plot.wheel`` for a picture, and
:meth:`primeattn.Pattern.wheel_permutation` for those who bring their own block-sparse attention.
"""
