"""OpenAI's API in types: what clients may send, what they are answered, and how errors look."""
