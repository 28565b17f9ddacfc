"""Version 1 of the wire contract; hedge.proto is the source, `make proto` writes the rest."""
