"""One term of leadership: what happens comes in, what is to be done goes out."""
