"""A run on disk: its folder, config, metrics and checkpoints."""
