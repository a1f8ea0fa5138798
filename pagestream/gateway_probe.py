"""Asks a gateway, over HTTP, what a person would ask it first: are you well, and what do you serve?"""

import http.client
import json


class GatewayProbe:
    """One gateway's address, as seen from this machine.

    Attributes:
        host: Where to connect to; the machine itself if the gateway listens on every interface.
        port: TCP port.
    """

    def __init__(self, host: str, port: int, *, api_key: str | None = None) -> None:
        self.host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - an address to leave, not to bind
        self.port = port
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    @property
    def base_url(self) -> str:
        """What an OpenAI client calls the base URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"

    def is_healthy(self) -> bool:
        """Whether requests would be served now."""
        try:
            return self._get("/health")[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def served_model_name(self) -> str:
        """The first name under which the gateway serves its model."""
        _, body = self._get("/v1/models")
        return str(json.loads(body)["data"][0]["id"])

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=2)
        try:
            connection.request("GET", path, headers=self._headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
