import socket

import pytest

from pagestream.gateway_address import GatewayAddress
from shared.errors import ConfigurationError


def test_port_zero_is_any_free_port() -> None:
    assert GatewayAddress.find("127.0.0.1", 0).port > 0


def test_a_port_that_is_in_use_is_named_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"^cannot listen on port {port} of 127\.0\.0\.1: .*--port$"):
            GatewayAddress.find("127.0.0.1", port)


def test_an_interface_that_is_not_ours_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"of 192\.0\.2\.1: "):
        GatewayAddress.find("192.0.2.1", 0)


def test_every_interface_is_reached_by_the_machines_own() -> None:
    assert GatewayAddress.find("0.0.0.0", 0).base_url.startswith("http://127.0.0.1:")


def test_an_address_of_version_six_is_written_in_brackets() -> None:
    assert GatewayAddress("::1", 8000).base_url == "http://[::1]:8000/v1"


def test_an_address_with_tls_is_an_https_one() -> None:
    assert GatewayAddress("localhost", 8000, is_https=True).base_url == "https://localhost:8000/v1"


def test_nobody_listening_is_not_healthy() -> None:
    assert not GatewayAddress.find("127.0.0.1", 0).is_healthy()
