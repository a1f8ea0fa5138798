"""What requests cost, and how full the caches are."""
