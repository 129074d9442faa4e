"""VAML: a variational amortised meta-learner."""
