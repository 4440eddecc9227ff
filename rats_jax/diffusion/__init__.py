"""Diffusion: schedules, grids, prediction types, guidance and samplers of any rank."""
