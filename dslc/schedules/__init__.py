"""How a kernel runs on a device: templates per target, chosen by plain cost rules."""
