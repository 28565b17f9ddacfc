"""The wire contract of Hedge."""
