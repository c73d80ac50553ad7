"""CPU kernels: blocks of queries, and the keys they meet at the same offsets, in vector registers."""
