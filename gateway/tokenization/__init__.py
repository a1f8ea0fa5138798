"""/tokenize and /detokenize: what the model's tokenizer makes of a text, a conversation or token ids. vLLM's API."""
