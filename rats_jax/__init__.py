"""Reward-Aware Trajectory Shaping (RATS) of few-step generators, in JAX."""
