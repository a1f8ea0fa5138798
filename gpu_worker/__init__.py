"""Computes. Owns every tensor: weights, KV cache, and the state of running sequences."""
