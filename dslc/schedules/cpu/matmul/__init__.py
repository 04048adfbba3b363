"""Templates of matrix products on the CPU."""
