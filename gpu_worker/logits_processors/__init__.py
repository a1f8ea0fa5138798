"""What changes a row's logits before its next token is chosen: each kind in a file of its own, behind one interface."""
