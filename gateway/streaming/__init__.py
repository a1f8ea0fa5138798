"""Tokens from the bus to whoever waits for them: each once, and in order."""
