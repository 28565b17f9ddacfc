"""Measurements that only a developer runs: python -m research.benches.NAME."""
