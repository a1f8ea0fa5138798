"""The contract between the processes: messages, keys, the bus, settings, errors."""
