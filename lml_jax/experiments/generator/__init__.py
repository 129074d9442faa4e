"""Experiments with the generative lifelong learner."""
