"""The offline API: `LLM` and what it takes and gives."""
