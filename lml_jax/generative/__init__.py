"""Generators of examples, conditioned on a task or a class."""
