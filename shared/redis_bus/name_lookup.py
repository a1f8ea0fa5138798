"""Looks a host's name up without holding anything up: neither a signal's handler nor the end of the process.

A look-up cannot be interrupted, and where the name server is gone it takes tens of seconds. asyncio and uvloop do
theirs in threads that the process waits for when it ends; one in the main thread delays the handlers of signals.
"""

import socket
import threading
from concurrent.futures import Future


def look_up(host: str) -> Future[None]:
    """Ask for a host's addresses in a thread that nobody waits for; done once the name is known to resolve.

    The future raises OSError if the name does not resolve.
    """
    found: Future[None] = Future()
    found.set_running_or_notify_cancel()  # from here on it cannot be cancelled, only be left alone

    def ask() -> None:
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            found.set_exception(error)
        else:
            found.set_result(None)

    threading.Thread(target=ask, name=f"look-up of {host}", daemon=True).start()
    return found
