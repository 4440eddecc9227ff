"""Configs: the rule of every field, the rules between fields, the command line; nothing imports jax."""
