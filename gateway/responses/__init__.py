"""OpenAI's Responses API: answers with a name, to be asked for again, continued, and made while nobody listens."""
