"""Verification of published weights: what is computed here beside PyTorch's originals, on the same inputs."""
