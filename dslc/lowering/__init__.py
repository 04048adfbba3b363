"""From optimised IR to TIR: groups of equations, a memory plan, kernels, one host function."""
