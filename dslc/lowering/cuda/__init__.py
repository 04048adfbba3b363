"""Lowers entries to CUDA: the same groups, memory plan and host function over device kernels."""
