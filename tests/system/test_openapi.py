"""Requests made up from /openapi.json against all services: whatever is asked, nothing breaks, and nothing is left."""

import contextlib
import json
import os
import random
import time
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.system.processes import Services

NUM_EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "2"))
"""Per operation and per kind: valid bodies, and broken ones."""

SHORT = ("--runner", "fake", "--max-model-len", "64")
CHECKS = (
    schemathesis.checks.not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Services(tmp_path_factory.mktemp("openapi")) as running:
        running.start_all(workers=1, worker_flags=SHORT)
        yield running


class Names:
    """Ids of things that are there, so that some requests find what they ask for."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._random = random.Random(1)

    def put_into(self, case: Case) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "demo"
        for name in case.path_parameters or {}:
            if self._random.random() < 0.5:
                case.path_parameters[name] = self._known(name)
        if isinstance(case.body, dict) and self._random.random() < 0.5 and "input_file_id" in case.body:
            case.body["input_file_id"] = self._known("file_id")

    def _known(self, name: str) -> str:
        match name:
            case "response_id":
                body = {"model": "demo", "input": "Hi", "background": self._random.random() < 0.5}
                return self._http.post("/v1/responses", json=body).json()["id"]
            case "file_id":
                return self._file()
            case "batch_id":
                body = {"input_file_id": self._file(), "endpoint": "/v1/completions", "completion_window": "24h"}
                return self._http.post("/v1/batches", json=body).json()["id"]
            case _:
                return "demo"

    def _file(self) -> str:
        url = "/v1/completions"
        lines = [{"custom_id": str(i), "url": url, "body": {"model": "demo", "prompt": "Hi"}} for i in range(3)]
        content = "\n".join(map(json.dumps, lines)).encode()
        return self._http.post("/v1/files", files={"file": ("a", content)}, data={"purpose": "batch"}).json()["id"]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["valid", "broken"])
def test_whatever_is_asked_is_answered_as_described(services: Services, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{services.base_url}/openapi.json")
    num_requests = 0
    with httpx.Client(base_url=services.base_url, timeout=30) as http:
        names = Names(http)
        for found in schema.get_all_operations():
            operation = found.ok()

            @settings(
                max_examples=NUM_EXAMPLES,
                deadline=None,
                derandomize="OPENAPI_EXAMPLES" not in os.environ,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.explicit, Phase.generate],
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def check(case: Case) -> None:
                nonlocal num_requests
                names.put_into(case)
                is_health = case.operation.path == "/health"  # which tells of a busy machine, too
                case.call_and_validate(checks=CHECKS[is_health:], timeout=30)
                num_requests += 1

            with contextlib.suppress(Unsatisfiable):  # nothing of it can be broken
                check()
    assert num_requests > 5 * NUM_EXAMPLES
    print(f"{num_requests} requests")
    settle(services)
    assert "Traceback" not in services.logs(), services.logs()
    assert "unexpected error" not in services.logs(), services.logs()
    services.assert_nothing_is_left()


def settle(services: Services) -> None:
    """Wait for what runs in the background."""
    deadline = time.monotonic() + 60
    jobs = [f"{{default}}:{kind}:jobs" for kind in ("response", "batch")]
    while any(services.redis.zcard(key) for key in jobs):
        assert time.monotonic() < deadline, [services.redis.zrange(key, 0, -1) for key in jobs]
        time.sleep(0.1)
