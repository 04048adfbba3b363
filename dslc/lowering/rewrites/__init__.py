"""Rewrites convolutions and products of an entry to those that the CPU's templates run."""
