"""Whole experiments: settings, training, evaluation, and what the literature reports."""
