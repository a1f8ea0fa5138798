"""How the pool and this gateway are, for people and for Prometheus."""
