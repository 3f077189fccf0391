"""Kernels of untrained networks: tensors in, tensors out, nothing trained and nothing changed."""
