"""Sparse, number-theoretic causal attention for NumPy."""
