"""A choice's text while it grows. Pure."""
