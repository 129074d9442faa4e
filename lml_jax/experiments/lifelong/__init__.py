"""Lifelong experiments: settings, construction, runs, tables."""
