"""What the CPU templates are made of: register tiles, panels, vectors and their mathematics."""
