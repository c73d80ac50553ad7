"""Kernels for NVIDIA GPUs: ``gather`` takes everything, ``wheel`` computes on tensor cores."""
