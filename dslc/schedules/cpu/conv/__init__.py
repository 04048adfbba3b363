"""Templates of convolutions on the CPU: over pixels (NHWC), over planes (NCHW), by Winograd."""
