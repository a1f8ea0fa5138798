"""One API call: what is sent to the pool for it, and what comes back until its end."""
