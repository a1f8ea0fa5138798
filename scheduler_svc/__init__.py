"""Decides what runs in the next step. Owns requests, block tables, ref counts and the prefix index."""
