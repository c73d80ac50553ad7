"""What compiled code is made with: the disk cache, threads, vectors, loops over rows, matrix products."""
