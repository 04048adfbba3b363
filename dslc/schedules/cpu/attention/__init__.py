"""Templates of attention and its gradient on the CPU."""
