"""Streams that outlive their gateway: what is kept of them, and how another gateway goes on with them."""
