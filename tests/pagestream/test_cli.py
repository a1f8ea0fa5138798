import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest
import typer

from gateway.settings import GatewaySettings
from gpu_worker.settings import WorkerSettings
from pagestream.cli import app, main
from scheduler_svc.settings import SchedulerSettings

NO_FLAGS = {"max_body_bytes", "shutdown_timeout_s", "worker_timeout_s", "gateway_grace_s"} | {
    "resume_grace_s", "max_num_calls", "max_num_call_bytes",
}  # fmt: skip
"""Settings that nobody has wanted to change yet."""


def _parse(command: str, *arguments: str) -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands[command].make_context(command, list(arguments)).params)


def _flag_names(settings: Any) -> set[str]:
    names = {field.name for field in dataclasses.fields(settings)} - NO_FLAGS
    return {"api_key" if name == "api_keys" else name for name in names}


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _parse("serve"):
        monkeypatch.delenv(f"PAGESTREAM_{name.upper()}", raising=False)


@pytest.mark.parametrize(
    ("command", "settings"),
    [("gateway", GatewaySettings), ("scheduler", SchedulerSettings), ("worker", WorkerSettings)],
)
def test_every_setting_of_a_service_has_a_flag(command: str, settings: Any) -> None:
    assert _flag_names(settings) <= _parse(command).keys()


def test_serve_takes_every_flag_of_the_services_it_starts() -> None:
    services: Iterable[str] = ("gateway", "scheduler", "worker")

    assert set().union(*map(_parse, services)) <= _parse("serve").keys()


def test_run_batch_takes_every_flag_of_what_it_does_in_one_process() -> None:
    of_a_server = {"host", "port", "api_key", "redis_url", "pool", "max_num_queued_reqs", "trust_request_chat_template"}
    of_a_server |= {"max_file_bytes", "max_file_store_bytes", "max_response_store_bytes", "max_stream_store_bytes"}
    of_a_server |= {"api_key_file", "ssl_certfile", "ssl_keyfile"}
    wanted = (_flag_names(WorkerSettings) | _flag_names(GatewaySettings)) - of_a_server

    assert wanted <= _parse("run-batch", "-i", "in.jsonl", "-o", "out.jsonl").keys()


def test_defaults_are_those_of_the_settings() -> None:
    parsed = _parse("gateway")

    assert (parsed["model"], parsed["port"], parsed["host"]) == ("demo", 8000, "127.0.0.1")


def test_flags_are_vllms() -> None:
    parsed = _parse(
        "serve",
        *("models/tiny", "--max-model-len", "2K", "--kv-cache-memory-bytes", "1.5G", "--no-enable-prefix-caching"),
        *("--api-key", "a", "--api-key", "b", "--served-model-name", "tiny", "--workers", "2", "--runner", "fake"),
    )

    assert parsed["model"] == "models/tiny"
    assert parsed["max_model_len"] == 2048
    assert parsed["kv_cache_memory_bytes"] == 3 * 2**29
    assert parsed["enable_prefix_caching"] is False
    assert parsed["api_key"] == ["a", "b"]
    assert parsed["served_model_name"] == ["tiny"]
    assert (parsed["workers"], parsed["runner"]) == (2, "fake")


def test_every_flag_is_also_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGESTREAM_MODEL", "models/tiny")
    monkeypatch.setenv("PAGESTREAM_MAX_NUM_SEQS", "1k")
    monkeypatch.setenv("PAGESTREAM_API_KEY", "a b")
    monkeypatch.setenv("PAGESTREAM_ENABLE_PREFIX_CACHING", "False")
    monkeypatch.setenv("PAGESTREAM_MAX_MODEL_LEN", "")
    parsed = _parse("serve")

    assert parsed["model"] == "models/tiny"
    assert parsed["max_num_seqs"] == 1000
    assert parsed["api_key"] == ["a", "b"]
    assert parsed["enable_prefix_caching"] is False
    assert parsed["max_model_len"] is None


def test_a_flag_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGESTREAM_PORT", "9000")

    assert _parse("gateway", "--port", "9001")["port"] == 9001


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "--max-model-len", "many"], "'--max-model-len'"),
        (["serve", "--port", "70000"], "'--port'"),
        (["serve", "--gpu-memory-utilization", "1.5"], "'--gpu-memory-utilization'"),
        (["serve", "--runner", "real"], "'--runner'"),
        (["serve", "--workers", "0"], "'--workers'"),
        (["worker", "--seed", "-1"], "'--seed'"),
        (["worker", "--no-such-flag"], "--no-such-flag"),
        (["conquer"], "conquer"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_flag(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("pagestream: error: ")
    assert printed.err.count("\n") == 1
    assert named in printed.err


def test_a_wrong_variable_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PAGESTREAM_BLOCK_SIZE", "sixteen")

    assert main(["worker"]) == 2
    assert "'sixteen' is no positive whole number" in capsys.readouterr().err


def test_a_model_that_does_not_exist_is_one_line_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "/nowhere/model.gguf"]) == 1

    assert capsys.readouterr().err.startswith("pagestream: error: model '/nowhere/model.gguf' does not exist; give ")


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0

    assert capsys.readouterr().out.startswith("pagestream 0.")


@pytest.mark.model
def test_download_prints_where_the_model_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download"]) == 0

    assert capsys.readouterr().out.endswith("SmolLM2-135M-Instruct.Q4_1.gguf\n")
