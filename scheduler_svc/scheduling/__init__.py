"""What runs in the next step, and where."""
