"""MetaGAN: a few-shot learner trained with generated negatives."""
