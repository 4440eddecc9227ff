"""Pretraining of the embedded model and its rewards from scratch."""
