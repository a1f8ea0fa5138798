"""The decoders, each built from a `ModelConfig` and the ops of its device."""
