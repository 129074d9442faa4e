"""Learners that are kept, on the command line: teach, ask, show, export."""
