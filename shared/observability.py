"""Logging as every service does it: constant messages with fields, one line per event, none per token."""

import logging
import sys


def configure_logging(service: str, *, level: str = "INFO") -> None:
    """Write this process's log to stderr, each line with the time, the level and the service's name.

    Raises:
        ValueError: no such level.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter(f"%(asctime)s %(levelname)-7s {service:<9} %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
