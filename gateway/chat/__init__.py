"""From a conversation to a prompt, and from output tokens to a message with its reasoning and calls."""
