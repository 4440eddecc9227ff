"""Networks as flax.linen modules, NHWC, each file named as the PyTorch file that it mirrors."""
