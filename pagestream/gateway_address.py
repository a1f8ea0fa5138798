"""Where the stack's gateway is: found before it starts, asked for its health, and shown to people."""

import http.client
import socket
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

from shared.errors import ConfigurationError

_EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what people may ask for, and how to reach it
_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """One TCP port, as seen from this machine.

    Attributes:
        host: Where to connect to.
        port: TCP port.
        is_https: Whether TLS is spoken there.
    """

    host: str
    port: int
    is_https: bool = False

    @classmethod
    def find(cls, host: str, port: int, *, is_https: bool = False) -> Self:
        """Take a port, or any free one for 0, after seeing that it can be listened on.

        Raises:
            ConfigurationError: it cannot.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
            except OSError as error:
                raise ConfigurationError(
                    f"cannot listen on port {port} of {host}: {error.strerror}; stop what listens there, "
                    "or choose another with --host and --port"
                ) from error
            return cls(_EVERY_INTERFACE.get(host, host), listener.getsockname()[1], is_https)

    @property
    def base_url(self) -> str:
        """What an OpenAI client calls the base URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_https else 'http'}://{host}:{self.port}/v1"

    def is_healthy(self) -> bool:
        """Whether requests would be answered now."""
        connection = self._connection()
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        """Whose certificate is not checked: it may be for another name than this machine's own."""
        if not self.is_https:
            return http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT_S)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(self.host, self.port, timeout=_TIMEOUT_S, context=context)
