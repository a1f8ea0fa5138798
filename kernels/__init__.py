"""Operations on tensors: a plain PyTorch reference for each, and the device's own kernel beside it."""
