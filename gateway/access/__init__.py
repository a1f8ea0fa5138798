"""Who may call, and how much of it at a time."""
