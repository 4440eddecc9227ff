"""Ahead-of-time compilation: what an update costs on chips that are not here."""
