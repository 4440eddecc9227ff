"""Pipelines: families of models as pure functions with weights, one file each."""
