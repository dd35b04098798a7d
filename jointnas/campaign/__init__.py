"""A search over real trainings: its rounds, its store, its winners."""
