"""Blocks: who holds which, and what is in them."""
