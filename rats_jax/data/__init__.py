"""Prompts, captions and pictures that a run or a command reads."""
