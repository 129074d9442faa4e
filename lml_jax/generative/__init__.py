"""Generators of tasks and of the classes of a stream, and the few-shot learners they train."""
