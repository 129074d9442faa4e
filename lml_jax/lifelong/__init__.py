"""Lifelong learners, their baselines, and the run of a learner over a stream."""
