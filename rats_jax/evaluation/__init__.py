"""Who draws better: contestants on the same prompts and noise, measured, with intervals."""
