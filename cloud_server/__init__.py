"""The cloud side: receives drafts, verifies them with the LLM, answers."""
