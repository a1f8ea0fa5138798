"""What an output must be, as a grammar that has been seen to compile."""
