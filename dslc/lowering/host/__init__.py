"""The host function of an entry: its steps in order, kernels that share a launch."""
