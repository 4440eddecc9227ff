"""Training: from a config to the functions of a run, its program and its loop."""
