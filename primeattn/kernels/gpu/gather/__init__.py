"""Gather kernels: a few threads for each query walk along its offsets."""
