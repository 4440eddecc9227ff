"""A finished student: loaded, drawn with, written for others."""
