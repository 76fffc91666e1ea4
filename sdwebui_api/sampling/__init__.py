"""Sampling: noise sources, schedules, samplers, guidance. Knows models only as callables."""
