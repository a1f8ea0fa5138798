"""The HTTP edge: OpenAI's API in, server-sent events out. Owns the client connection and the text."""
