"""Demonstration: the models of a run on a web page, drawing from the same noise."""
