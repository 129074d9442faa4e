"""Experiments: everything the command line runs."""
