"""The OpenAI-compatible API of the device, and its page."""
