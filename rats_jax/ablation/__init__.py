"""Comparisons of variants of a run."""
