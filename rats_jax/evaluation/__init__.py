"""Evaluation: contestants on the same prompts and noise, measured, with intervals."""
