"""`pagestream chat` and `pagestream complete` against a real gateway, whose pool echoes prompts."""

import asyncio
import io
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

from gateway.tokenizers.gguf_tokenizer import tokenizer_from_gguf
from gateway.tokenizers.tokenizer import Tokenizer
from pagestream.cli import main
from shared.messages import Fault, Submit
from shared.packing import unpack_u32
from tests.gateway.conftest import BYTE_METADATA, EOS, Running, eventually, running_gateway

USER = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL)


def prompt_of(submit: Submit) -> str:
    marks = {256: b"<|im_start|>", 257: b"<|im_end|>"}
    return b"".join(marks.get(token) or bytes([token]) for token in unpack_u32(submit.prompt)).decode()


def echo(submit: Submit, _choice: int, position: int) -> "int | Fault | None":
    """Says what the user said last, with the number of the user's messages before it; "fail" fails."""
    prompt = prompt_of(submit)
    said = USER.findall(prompt)
    if said and said[-1] == "fail":
        return Fault(submit.handle, 500, "it failed")
    if said and said[-1] == "forever":
        return ord("x")
    text = f"{len(said)}: {said[-1]}" if said else f"after {prompt}"
    return [*text.encode(), EOS][position]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tokenizer_from_gguf(BYTE_METADATA)


@pytest.fixture
def ask(tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command against a gateway of its own, with these lines as its input; what it printed, and the gateway."""

    async def ask(command: str, *flags: str, lines: str = "", **settings: Any) -> tuple[int, str, Running]:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        async with running_gateway(tokenizer, echo, **settings) as running:
            status = await asyncio.to_thread(main, [command, "--url", f"{running.base_url}/v1", *flags])
            captured = capsys.readouterr()
            return status, captured.out + captured.err, running

    return ask


async def test_a_chat_remembers_what_was_said(ask: Callable[..., Any]) -> None:
    status, printed, running = await ask("chat", "--system-prompt", "Be short.", lines="red\nblue\n\n/reset\ngreen\n")
    assert status == 0
    assert printed.splitlines() == ["1: red", "2: blue", "forgotten", "1: green", ""]
    prompts = [prompt_of(submit) for submit in running.pool.submits]
    assert prompts[1].startswith("<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nred<|im_end|>\n")
    assert "<|im_start|>assistant\n1: red<|im_end|>" in prompts[1]
    assert prompts[2].count("Be short.") == 1


async def test_a_refused_line_is_forgotten(ask: Callable[..., Any]) -> None:
    _, printed, running = await ask("chat", lines="one\nfail\n" + "x" * 300 + "\ntwo\n")
    first, failed, too_long, last, _ = printed.splitlines()
    assert (first, last) == ("1: one", "2: two")
    assert failed.startswith("error: it failed")
    assert "maximum context length is 256 tokens" in too_long
    assert prompt_of(running.pool.submits[-1]).count("fail") == 0


async def test_a_quick_question_prints_the_answer_and_nothing_else(ask: Callable[..., Any]) -> None:
    status, printed, running = await ask("chat", "-q", "hello", "--max-tokens", "5", "--temperature", "0")
    assert (status, printed) == (0, "1: he\n")
    assert running.pool.submits[0].sampling.temperature == 0


async def test_texts_are_completed_line_by_line(ask: Callable[..., Any]) -> None:
    status, printed, _ = await ask("complete", "--max-tokens", "64", lines="a b\nc\n")
    assert (status, printed) == (0, "after a b\nafter c\n\n")
    assert (await ask("complete", "--max-tokens", "64", "--quick", "once"))[1] == "after once\n"


async def test_what_is_wrong_is_told_with_the_remedy(
    ask: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(["chat", "--url", "http://127.0.0.1:1/v1", "-q", "x"]) == 1
    assert "start a server by `pagestream serve`, or name yours by --url" in capsys.readouterr().err
    status, printed, _ = await ask("chat", "-q", "x", api_keys=("secret",))
    assert (status, "Incorrect API key provided" in printed) == (1, True)
    assert (await ask("chat", "-q", "x", "--api-key", "secret", api_keys=("secret",)))[:2] == (0, "1: x\n")
    status, printed, _ = await ask("complete", "-q", "x", "--model-name", "other")
    assert (status, "The model 'other' does not exist" in printed) == (1, True)


async def test_ctrl_c_stops_the_answer_at_the_server_too(tokenizer: Tokenizer) -> None:
    async with running_gateway(tokenizer, echo, max_model_len=100_000) as running:
        running.pool.step_s = 0.01
        chat = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pagestream", "chat", "--url", f"{running.base_url}/v1"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert chat.stdin is not None
        assert chat.stdout is not None
        chat.stdin.write(b"forever\n")
        assert await chat.stdout.readexactly(3) == b"xxx"
        chat.send_signal(signal.SIGINT)
        await eventually(lambda: bool(running.pool.cancels))
        chat.stdin.write(b"next\n")
        chat.stdin.close()
        printed = (await chat.stdout.read()).decode()
        assert printed.splitlines()[-2:] == ["2: next", ""]
        assert await chat.wait() == 0
