"""OpenAI's Batch API: many requests in a file, answered when nobody else needs the pool."""
