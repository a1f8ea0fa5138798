"""Requests that kill workers, found by trying suspects apart."""
