"""Trains the bundled pair. `python -m tools.train_pair --help` says how."""
