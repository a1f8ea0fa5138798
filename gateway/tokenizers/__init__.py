"""The model's tokenizer and chat template, and text out of tokens."""
