"""The whole tool against a real gateway."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from gateway.tokenizers.tokenizer import Tokenizer
from loadtest.bench import run
from loadtest.settings import BenchSettings, Dataset, Reporting, Sampling, Target, Traffic
from shared.errors import ConfigurationError
from tests.gateway.conftest import Running, running_gateway
from tests.loadtest.conftest import ScriptedServer, say_hello, scripted_server

UNAVAILABLE = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
MODELS = b'HTTP/1.1 200 OK\r\nContent-Length: 25\r\n\r\n{"data":[{"id":"small"}]}'


def endless(_submit: object, _choice: int, _position: int) -> int:
    return ord("x")


def command(gateway: Running, tokenizer: str, *flags: str) -> list[str]:
    address = ("--base-url", gateway.base_url, "--tokenizer", tokenizer)
    return [sys.executable, "-m", "pagestream", "bench", "serve", *address, *flags]


def bench_settings(target: Target, **traffic: object) -> BenchSettings:
    return BenchSettings(
        target=target,
        traffic=Traffic(**traffic),
        dataset=Dataset(input_len=10, output_len=4),
        sampling=Sampling(),
        reporting=Reporting(),
    )


@pytest.mark.model
async def test_a_run_of_the_command_prints_and_keeps_what_was_measured(
    byte_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    flags = ("--num-prompts", "12", "--random-input-len", "10", "--random-output-len", "16", "--max-concurrency", "4")
    kept = ("--save-result", "--save-detailed", "--result-dir", str(tmp_path), "--result-filename", "result.json")
    more = ("--num-warmups", "2", "--ready-check-timeout-sec", "5", "--goodput", "ttft:9999", "e2el:9999")
    async with running_gateway(byte_tokenizer, endless) as gateway:
        process = await asyncio.create_subprocess_exec(
            *command(gateway, "demo", *flags, *kept, *more), stdout=asyncio.subprocess.PIPE, stderr=None
        )
        printed = (await process.communicate())[0].decode()
        prompts = [bytes(submit.prompt) for submit in gateway.pool.submits]

    result = json.loads((tmp_path / "result.json").read_text())
    assert process.returncode == 0
    assert "Successful requests:                     12" in printed
    assert "Total generated tokens:                  192" in printed
    assert (result["completed"], result["failed"], result["total_output_tokens"]) == (12, 0, 192)
    assert result["request_goodput"] == result["request_throughput"]
    assert result["max_concurrent_requests"] <= 4
    assert result["generated_texts"] == ["x" * 16] * 12
    assert result["model_id"] == "tiny"
    # A ready check and two warm-ups come first.
    assert len(prompts) == len(set(prompts)) == 15


@pytest.mark.model
async def test_a_chat_of_many_turns_is_measured(byte_tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_gateway(byte_tokenizer, endless) as gateway:
        settings = BenchSettings(
            target=Target(base_url=gateway.base_url, backend="openai-chat", tokenizer="demo"),
            traffic=Traffic(num_prompts=6, request_rate=200.0),
            dataset=Dataset(
                dataset_name="multiturn", multiturn_num_turns=3, multiturn_prefix_len=2, input_len=2, output_len=4
            ),
            sampling=Sampling(ignore_eos=True, temperature=0.0),
            reporting=Reporting(),
        )
        assert await asyncio.to_thread(run, settings) == 0
        assert all(submit.sampling.temperature == 0 for submit in gateway.pool.submits)

    assert "Successful requests:                     6 " in capsys.readouterr().out


@pytest.mark.model
async def test_a_run_without_answers_fails_and_says_why_once(capsys: pytest.CaptureFixture[str]) -> None:
    async def refuse(_server: object, _body: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 No\r\nContent-Length: 6\r\n\r\nasleep")

    async with scripted_server(refuse) as server:
        settings = bench_settings(Target(port=server.port, model="m", tokenizer="demo"), num_prompts=5)
        assert await asyncio.to_thread(run, settings) == 1

    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert "5 requests failed: HTTP 503: asleep" in printed.err
    assert "Failed requests:                         5 " in printed.out


@pytest.mark.model
async def test_a_server_that_is_still_starting_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    answers = iter([UNAVAILABLE, MODELS, UNAVAILABLE])

    async def wake_up(server: ScriptedServer, body: dict, writer: asyncio.StreamWriter) -> None:
        answer = next(answers, None)
        if answer is None:
            await say_hello(server, body, writer)
        else:
            writer.write(answer)

    async with scripted_server(wake_up) as server:
        target = Target(port=server.port, tokenizer="demo", ready_check_timeout_sec=5)
        assert await asyncio.to_thread(run, bench_settings(target, num_prompts=1)) == 0
        assert [head.split()[1] for head in server.heads] == ["/v1/models"] * 2 + ["/v1/completions"] * 3
        assert server.bodies[-1]["model"] == "small"

    assert "Successful requests:                     1 " in capsys.readouterr().out


@pytest.mark.model
async def test_a_server_that_never_answers_well_ends_the_wait() -> None:
    async def refuse(_server: object, _body: object, writer: asyncio.StreamWriter) -> None:
        writer.write(UNAVAILABLE)

    async with scripted_server(refuse) as server:
        target = Target(port=server.port, model="m", tokenizer="demo", ready_check_timeout_sec=1)
        with pytest.raises(ConfigurationError, match="HTTP 503: ; correct the flags, or raise --ready-check"):
            await asyncio.to_thread(run, bench_settings(target, num_prompts=1))
