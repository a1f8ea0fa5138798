"""OpenAI's Embeddings API: texts as vectors of the served model."""
