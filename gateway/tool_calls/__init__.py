"""Tools: what a request offers, how each family of models writes calls, and the calls out of a growing text."""
