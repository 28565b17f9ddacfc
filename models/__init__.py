"""The bundled model pair: slm/, llm/ and their calibrations. README.md is the card."""
