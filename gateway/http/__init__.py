"""Between a socket and a route: bodies in, event streams out, and what every request passes."""
