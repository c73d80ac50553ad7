"""Wheel kernels: dense tiles for tensor cores, made of sparse patterns with arithmetic in them."""
