"""Sources of examples, episodes, streams of tasks."""
