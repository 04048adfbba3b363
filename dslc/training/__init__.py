"""The training loop around a compiled training step: epochs, checkpoints, loss curves."""
