"""Log-probabilities as the API tells them. The pool's are a function of the token: rank r has -r / 4, see the fake."""

import math

import pytest

from gateway.shapes.content_logprobs import finite
from gateway.tokenizers.tokenizer import Tokenizer
from shared.memory_bus import MemoryBus
from tests.gateway.conftest import EOS, Running, running_gateway, says
from tests.gateway.test_api import CHAT, client, events

TEXT = {"model": "tiny", "prompt": "Hi you"}


def rank(token: int) -> int:
    return 1 + token % 3


async def post(gateway: Running, path: str, body: dict) -> dict:
    response = await gateway.http.post(f"/v1/{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def choices_of(gateway: Running, path: str, body: dict) -> list[dict]:
    """What a client makes of a call, whole or streamed: text, reason, and log-probabilities put together."""
    if not body.get("stream"):
        whole = (await post(gateway, path, body))["choices"]
        texts = [choice["text"] if "text" in choice else choice["message"]["content"] for choice in whole]
        return [
            {"text": text, "reason": choice["finish_reason"], "told": choice["logprobs"]}
            for text, choice in zip(texts, whole, strict=True)
        ]
    response = await gateway.http.post(f"/v1/{path}", json=body)
    made: dict[int, dict] = {}
    for chunk in events(response.text):
        for c in chunk["choices"]:
            choice = made.setdefault(c["index"], {"text": "", "reason": None, "told": None})
            choice["text"] += c.get("text", c.get("delta", {}).get("content", ""))
            choice["reason"] = c["finish_reason"]
            for name, values in (c["logprobs"] or {}).items():
                choice["told"] = choice["told"] or {}
                if values is None:
                    choice["told"][name] = None
                else:
                    choice["told"][name] = choice["told"].get(name, []) + values
    return [choice for _, choice in sorted(made.items())]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_tells_each_token_with_its_bytes(byte_tokenizer: Tokenizer, stream: bool) -> None:
    async with running_gateway(byte_tokenizer, says("Grüß 🎉")) as gateway:
        body = CHAT | {"logprobs": True, "top_logprobs": 2, "stream": stream}
        (choice,) = await choices_of(gateway, "chat/completions", body)
        content = choice["told"]["content"]
        tokens = [*"Grüß 🎉".encode(), EOS]
        assert choice["text"] == "Grüß 🎉"
        assert choice["told"]["refusal"] is None
        assert bytes(byte for token in content for byte in token["bytes"]).decode() == "Grüß 🎉<|im_end|>"
        assert [token["token"] for token in content[:5]] == ["G", "r", "\\xc3", "\\xbc", "\\xc3"]
        assert content[-1]["token"] == "<|im_end|>"
        for token_id, token in zip(tokens, content, strict=True):
            assert token["logprob"] == -rank(token_id) / 4
            assert [top["logprob"] for top in token["top_logprobs"]] == [-0.25, -0.5]
            if rank(token_id) < 3:
                assert token["top_logprobs"][rank(token_id) - 1]["bytes"] == token["bytes"]


async def test_the_openai_client_reads_them_strictly(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("Grüß 🎉")) as gateway, client(gateway) as api:
        message = {"role": "user", "content": "Hi"}
        chat = await api.chat.completions.create(model="tiny", messages=[message], logprobs=True, top_logprobs=1)
        assert chat.choices[0].logprobs.content[0].top_logprobs[0].logprob == -0.25
        stream = await api.chat.completions.create(
            model="tiny", messages=[message], logprobs=True, stream=True, n=2, stream_options={"include_usage": True}
        )
        told = [c.logprobs async for chunk in stream for c in chunk.choices]
        assert sum(len(logprobs.content) for logprobs in told if logprobs) == 2 * (len("Grüß 🎉".encode()) + 1)
        text = await api.completions.create(model="tiny", prompt="x", logprobs=2)
        assert len(text.choices[0].logprobs.tokens) == len("Grüß 🎉".encode()) + 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("bus", [None, "lossy"])
async def test_a_completion_tells_parallel_lists(byte_tokenizer: Tokenizer, stream: bool, bus: str | None) -> None:
    lossy = MemoryBus(drop=lambda batch: batch.step.step % 3 == 0) if bus else None
    async with running_gateway(byte_tokenizer, says("aü!"), lossy) as gateway:
        (choice,) = await choices_of(gateway, "completions", TEXT | {"logprobs": 1, "stream": stream})
        assert (choice["text"], choice["reason"]) == ("aü!", "stop")
        told = choice["told"]
        assert told["tokens"] == ["a", "bytes:\\xc3", "bytes:\\xbc", "!", "<|im_end|>"]
        assert told["text_offset"] == [0, 1, 1, 2, 3]
        tokens = [*"aü!".encode(), EOS]
        assert told["token_logprobs"] == [-rank(token) / 4 for token in tokens]
        for name, logprob, token, top in zip(
            told["tokens"], told["token_logprobs"], tokens, told["top_logprobs"], strict=True
        ):
            # The likeliest, and the token itself where that is another one.
            assert top[name] == logprob
            assert max(top.values()) == -0.25
            assert len(top) == (1 if rank(token) == 1 else 2)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["Hi", [72, 105]], ids=["text", "ids"])
async def test_an_echo_comes_before_each_choice(byte_tokenizer: Tokenizer, stream: bool, prompt: object) -> None:
    async with running_gateway(byte_tokenizer, says("abc")) as gateway:
        body = {"model": "tiny", "prompt": prompt, "echo": True, "logprobs": 0, "n": 2, "stream": stream}
        for choice in await choices_of(gateway, "completions", body):
            assert choice["text"] == "Hiabc"
            told = choice["told"]
            assert told["tokens"] == ["H", "i", "a", "b", "c", "<|im_end|>"]
            assert told["text_offset"] == [0, 1, 2, 3, 4, 5]
            assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
            assert told["token_logprobs"][1:] == [-rank(token) / 4 for token in (*b"iabc", EOS)]
            assert told["top_logprobs"][1] == {"i": -rank(ord("i")) / 4}
        (plain, _) = await choices_of(gateway, "completions", body | {"logprobs": None})
        assert (plain["text"], plain["told"]) == ("Hiabc", None)


@pytest.mark.parametrize("stream", [False, True])
async def test_choices_that_are_ahead_of_their_prompt_wait_for_it(byte_tokenizer: Tokenizer, stream: bool) -> None:
    """Choice 0 tells of the prompt; after a preemption it can be later than the others."""

    def answer(_submit: object, choice: int, position: int) -> int | None:
        if choice == 0 and len(seen) < 12:
            return None
        seen.append(choice)
        return EOS if position == 4 else ord("a") + choice

    seen: list[int] = []
    async with running_gateway(byte_tokenizer, answer) as gateway:
        body = TEXT | {"echo": True, "logprobs": 0, "n": 4, "stream": stream}
        choices = await choices_of(gateway, "completions", body)
        assert [choice["text"] for choice in choices] == [f"Hi you{letter * 4}" for letter in "abcd"]
        assert all(len(choice["told"]["tokens"]) == 6 + 5 for choice in choices)


@pytest.mark.parametrize("logprobs", [None, 1])
async def test_an_echo_of_no_output_is_the_prompt_alone(byte_tokenizer: Tokenizer, logprobs: int | None) -> None:
    async with running_gateway(byte_tokenizer, says("abc")) as gateway:
        body = TEXT | {"echo": True, "max_tokens": 0, "logprobs": logprobs}
        answer = await post(gateway, "completions", body)
        (choice,) = answer["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("Hi you", "length")
        assert answer["usage"]["completion_tokens"] == 0
        assert (choice["logprobs"] is None) == (logprobs is None)
        if logprobs is not None:
            assert choice["logprobs"]["tokens"] == list("Hi you")


async def test_prompts_are_told_by_token_id(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("abc")) as gateway:
        body = {"model": "tiny", "prompt": ["Hi", "you"], "prompt_logprobs": 1}
        for choice, prompt in zip((await post(gateway, "completions", body))["choices"], ("Hi", "you"), strict=True):
            first, *rest = choice["prompt_logprobs"]
            assert first is None
            assert choice["logprobs"] is None
            for letter, entry in zip(prompt[1:], rest, strict=True):
                token = ord(letter)
                assert entry[str(token)] == {"logprob": -rank(token) / 4, "rank": rank(token), "decoded_token": letter}
                assert min(other["rank"] for other in entry.values()) == 1
        chat = await post(gateway, "chat/completions", CHAT | {"prompt_logprobs": 0})
        assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]
        assert "prompt_logprobs" not in chat["choices"][0]


async def test_a_stop_string_ends_what_is_told_with_the_token_that_completes_it(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("one END two")) as gateway:
        body = TEXT | {"logprobs": 0, "stop": "END", "return_token_ids": True}
        for extra, text in (({}, "one "), ({"include_stop_str_in_output": True}, "one END")):
            (choice,) = (await post(gateway, "completions", body | extra))["choices"]
            assert (choice["text"], choice["stop_reason"]) == (text, "END")
            assert "".join(choice["logprobs"]["tokens"]) == "one END"
            assert choice["token_ids"] == list(b"one END")


async def test_tokens_may_be_named_by_their_ids(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("ab")) as gateway:
        names = {"return_tokens_as_token_ids": True}
        (text,) = (await post(gateway, "completions", TEXT | names | {"logprobs": 1}))["choices"]
        assert text["logprobs"]["tokens"] == ["token_id:97", "token_id:98", f"token_id:{EOS}"]
        chat = await post(gateway, "chat/completions", CHAT | names | {"logprobs": True})
        assert chat["choices"][0]["logprobs"]["content"][0]["token"] == "token_id:97"
        assert chat["choices"][0]["logprobs"]["content"][0]["bytes"] == [97]


async def test_the_likeliest_of_several_are_kept(byte_tokenizer: Tokenizer) -> None:
    """Choice i says one letter over and over; the log-probability per token depends on the letter alone."""
    letters = "abcdef"

    def answer(_submit: object, choice: int, position: int) -> int:
        return EOS if position == 3 + choice else ord(letters[choice])

    async with running_gateway(byte_tokenizer, answer) as gateway:
        body = TEXT | {"n": 2, "best_of": 6, "echo": True}
        answered = await post(gateway, "completions", body)
        means = {letters[i] * (3 + i): -(rank(ord(letters[i])) * (3 + i) + rank(EOS)) / 4 / (4 + i) for i in range(6)}
        best = sorted(means, key=means.__getitem__, reverse=True)[:2]
        assert [choice["text"] for choice in answered["choices"]] == [f"Hi you{text}" for text in best]
        assert [choice["index"] for choice in answered["choices"]] == [0, 1]
        assert all(choice["logprobs"] is None for choice in answered["choices"])
        assert answered["usage"]["completion_tokens"] == sum(4 + i for i in range(6))


async def test_a_worker_that_does_not_tell_them_is_an_error_and_not_a_guess(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("abc")) as gateway:
        gateway.pool.tells_logprobs = False
        for fields in ({"logprobs": 1}, {"prompt_logprobs": 1}, {"logprobs": 1, "echo": True}):
            response = await gateway.http.post("/v1/completions", json=TEXT | fields)
            assert response.status_code == 500
            assert "log-probabilities" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("completions", {"logprobs": 21}, "logprobs"),
        ("completions", {"logprobs": -1}, "logprobs"),
        ("completions", {"logprobs": True}, "logprobs"),
        ("completions", {"prompt_logprobs": 21}, "prompt_logprobs"),
        ("completions", {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ("completions", {"best_of": 2, "n": 3}, "best_of"),
        ("completions", {"best_of": 21}, "best_of"),
        ("completions", {"best_of": 2, "stream": True}, "best_of"),
        ("chat/completions", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("chat/completions", {"logprobs": 1}, "logprobs"),
    ],
)
async def test_what_cannot_be_told_is_refused(byte_tokenizer: Tokenizer, path: str, fields: dict, param: str) -> None:
    async with running_gateway(byte_tokenizer, says("abc")) as gateway:
        body = (TEXT if path == "completions" else CHAT) | fields
        response = await gateway.http.post(f"/v1/{path}", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_a_server_may_tell_more(byte_tokenizer: Tokenizer) -> None:
    async with running_gateway(byte_tokenizer, says("abc"), max_logprobs=30) as gateway:
        (choice,) = (await post(gateway, "completions", TEXT | {"logprobs": 30}))["choices"]
        assert len(choice["logprobs"]["top_logprobs"][0]) >= 29  # two tokens may have one name


def test_impossible_tokens_have_a_number_that_json_can_hold() -> None:
    assert finite(-math.inf) == -9999.0
    assert finite(math.nan) == -9999.0
    assert finite(-3.5) == -3.5
