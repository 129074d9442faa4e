"""Generative meta-learners: each a factory of a `Learner` and a `Generator` over one pytree."""
