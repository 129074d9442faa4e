"""A conditional GAN for streams of tasks."""
