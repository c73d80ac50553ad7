"""CPU kernels: a block of queries meets its keys offset by offset, in vector registers."""
