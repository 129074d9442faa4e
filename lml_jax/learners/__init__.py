"""Few-shot learners: one file, one paper, each a factory of a `Learner`."""
