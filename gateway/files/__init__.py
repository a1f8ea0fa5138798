"""OpenAI's Files API: what batches read and write."""
