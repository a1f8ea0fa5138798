"""The tool users measure with."""
