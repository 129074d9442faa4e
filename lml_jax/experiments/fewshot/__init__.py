"""Few-shot experiments: settings, construction, runs."""
