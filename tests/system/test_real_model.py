"""The demo model through every service, with the clients people have."""

import json
import math
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import httpx
import pydantic
import pytest
from openai import OpenAI, pydantic_function_tool

from pagestream import LLM, SamplingParams
from tests.system.processes import Services

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM

pytestmark = pytest.mark.model

WORKER = ("--max-model-len", "2048", "--num-threads", "1", "--kv-cache-memory-bytes", "300M")
CHAT = [{"role": "user", "content": "Name three colours."}]
FANCY = {
    "temperature": 0.9, "seed": 5, "min_p": 0.02, "repetition_penalty": 1.1, "presence_penalty": 0.4,
    "frequency_penalty": 0.2, "logit_bias": {"260": -3}, "bad_words": ["number", "one of the"], "echo": True,
    "logprobs": 2, "return_token_ids": True,
}  # fmt: skip

FORMED = {"temperature": 1.0, "seed": 9, "structured_outputs": {"regex": r"([A-Z][a-z]+( [a-z]+)*\.\n)+"}}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Services(tmp_path_factory.mktemp("real")) as running:
        running.start_all(workers=2, worker_flags=WORKER)
        yield running


@pytest.fixture
def url(services: Services) -> Iterator[str]:
    yield services.base_url
    services.assert_nothing_is_left()


@pytest.fixture
def openai(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", _strict_response_validation=True) as client:
        yield client


def test_the_curl_snippet_of_the_readme_works(url: str) -> None:
    answer = subprocess.run(
        [
            "curl", "-s", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d",
            '{"model": "demo", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 16}',
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    body = json.loads(answer.stdout)
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["message"]["content"]
    assert body["usage"]["completion_tokens"] <= 16


def test_the_openai_client_streams_what_it_also_gets_in_one_piece(openai: OpenAI) -> None:
    whole = openai.chat.completions.create(model="demo", messages=CHAT, max_tokens=24, temperature=0)
    text = ""
    for chunk in openai.chat.completions.create(model="demo", messages=CHAT, max_tokens=24, temperature=0, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert text == whole.choices[0].message.content
    assert len(text) > 20


def test_a_seed_makes_sampling_repeatable_and_choices_differ(openai: OpenAI) -> None:
    def sample() -> list[str | None]:
        answer = openai.chat.completions.create(
            model="demo", messages=CHAT, max_tokens=16, temperature=1.0, top_p=0.95, seed=7, n=3
        )
        return [choice.message.content for choice in answer.choices]

    first = sample()
    assert len(set(first)) == 3
    assert sample() == first


def test_a_shared_prefix_is_not_computed_again(openai: OpenAI) -> None:
    prefix = [1000 + place % 700 for place in range(1024)]
    cached = []
    for ending in ([5, 6, 7], [8, 9, 10, 11]):
        answer = openai.completions.create(model="demo", prompt=prefix + ending, max_tokens=2, temperature=0)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 1024 + len(ending)
        details = answer.usage.prompt_tokens_details
        cached.append(details.cached_tokens if details else 0)
    assert cached == [0, 1024]


def test_a_stop_string_ends_the_answer_before_it(openai: OpenAI) -> None:
    free = openai.completions.create(model="demo", prompt="1, 2, 3, 4,", max_tokens=24, temperature=0)
    text = free.choices[0].text
    stop = text[len(text) // 2 : len(text) // 2 + 3]
    stopped = openai.completions.create(model="demo", prompt="1, 2, 3, 4,", max_tokens=24, temperature=0, stop=stop)
    assert stopped.choices[0].text == text[: text.find(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_the_offline_api_gives_the_same_tokens(openai: OpenAI) -> None:
    llm = LLM("demo", max_model_len=2048, kv_cache_memory_bytes=100 << 20, num_threads=1)
    prompts = ["1, 2, 3, 4,", "The sea was", "def add(a, b):", "Dear Sir,"]
    penalties = {"presence_penalty": 0.5, "frequency_penalty": 0.3}
    for params in ({"temperature": 0.0}, {"temperature": 0.9, "top_p": 0.95, "seed": 11, "n": 2, **penalties}):
        answer = openai.completions.create(
            model="demo", prompt=prompts, max_tokens=16, extra_body={"return_token_ids": True}, **params
        )
        outputs = llm.generate(prompts, SamplingParams(max_tokens=16, **params), use_tqdm=False)
        choices = [choice for output in outputs for choice in output.outputs]
        assert [list(choice.token_ids) for choice in choices] == [choice.token_ids for choice in answer.choices]
        assert [choice.text for choice in choices] == [choice.text for choice in answer.choices]
    told = openai.chat.completions.create(model="demo", messages=CHAT, max_tokens=16, temperature=0)
    (output,) = llm.chat(CHAT, SamplingParams(max_tokens=16, temperature=0), use_tqdm=False)
    assert output.outputs[0].text == told.choices[0].message.content


def wait_until_running(url: str, *, num_requests: int) -> None:
    deadline = time.monotonic() + 30
    found: list[str] = []
    while sum(map(float, found)) < num_requests:
        assert time.monotonic() < deadline, f"{found} of {num_requests} requests are running"
        time.sleep(0.02)
        found = re.findall(r"^vllm:num_requests_running\{.*\} (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)


def test_answers_survive_a_killed_worker_unchanged(services: Services, url: str) -> None:
    def answer(index: int) -> dict[str, object]:
        """Half of them need all that a worker knows of its sequences, and tell more than text."""
        body = {"model": "demo", "prompt": f"Write about the number {index}.", "max_tokens": 150, "ignore_eos": True}
        body |= ({"temperature": 0}, FANCY, FORMED, FANCY)[index]
        response = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
        assert response.status_code == 200, response.text
        return dict(response.json()["choices"][0])

    with ThreadPoolExecutor() as pool:
        undisturbed = list(pool.map(answer, range(4)))
    assert re.fullmatch(r"[A-Za-z .\n]+", str(undisturbed[2]["text"]))
    victim = services.start("worker", "demo", *WORKER)
    services.wait_for_workers(3)
    disturbed: dict[int, dict[str, object]] = {}
    threads = [
        threading.Thread(target=lambda place=index: disturbed.update({place: answer(place % 4)})) for index in range(9)
    ]
    for thread in threads:
        thread.start()
    wait_until_running(url, num_requests=len(threads))
    services.kill(victim)
    for thread in threads:
        thread.join()
    assert [disturbed[index] for index in range(9)] == [undisturbed[index % 4] for index in range(9)]
    assert re.search(r"is gone, [1-9]\d* sequences move on", services.logs())


def scores(oracle: "LlamaForCausalLM", token_ids: list[int]) -> "Tensor":
    """transformers' log-probabilities of all tokens at each place but the first, [num_tokens - 1, vocab_size]."""
    import torch  # seconds, which the other tests do without

    with torch.inference_mode():
        return oracle(torch.tensor([token_ids])).logits[0, :-1].log_softmax(-1)


def test_a_chats_logprobs_are_those_of_transformers(openai: OpenAI, demo_oracle: "LlamaForCausalLM") -> None:
    answer = openai.chat.completions.create(
        model="demo", messages=CHAT, max_tokens=12, temperature=0.7, seed=4, logprobs=True, top_logprobs=3,
        logit_bias={"504": 2}, extra_body={"return_token_ids": True, "prompt_logprobs": 0},
    )  # fmt: skip
    (choice,), told = answer.choices, answer.model_extra
    assert choice.logprobs is not None
    assert told is not None
    content = choice.logprobs.content or []
    prompt, output = told["prompt_token_ids"], choice.model_extra["token_ids"]  # type: ignore[index]
    table = scores(demo_oracle, prompt + output)
    assert "".join(token.token for token in content).removesuffix("<|im_end|>") == choice.message.content
    assert [bytes(token.bytes or []).decode() for token in content] == [token.token for token in content]
    for place, (token_id, token) in enumerate(zip(output, content, strict=True), len(prompt) - 1):
        assert token.logprob == pytest.approx(table[place, token_id].item(), abs=1e-3)
        likeliest = table[place].topk(3).values.tolist()
        assert [top.logprob for top in token.top_logprobs] == pytest.approx(likeliest, abs=1e-3)
    assert told["prompt_logprobs"][0] is None
    for place, (token_id, entry) in enumerate(zip(prompt[1:], told["prompt_logprobs"][1:], strict=True)):
        assert list(entry) == [str(token_id)]
        assert entry[str(token_id)]["logprob"] == pytest.approx(table[place, token_id].item(), abs=1e-3)


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_a_continuation_is_scored_as_lm_eval_asks_for_it(
    url: str, demo_oracle: "LlamaForCausalLM", max_tokens: int
) -> None:
    """Context and continuation as token ids; what is read of the answer is what its `parse_logprobs` reads."""
    context, continuation = [504, 3575, 282, 4649, 314], [260, 2240, 282, 4649, 30]
    token_ids = context + continuation
    body = {"model": "demo", "prompt": [token_ids], "echo": True, "max_tokens": max_tokens, "logprobs": 1}
    answer = httpx.post(f"{url}/v1/completions", json=body | {"temperature": 0}).json()
    told = answer["choices"][0]["logprobs"]
    assert answer["usage"]["completion_tokens"] == max_tokens
    assert {len(told[name]) for name in told} == {len(token_ids) + max_tokens}
    table = scores(demo_oracle, token_ids)
    expected = [table[place, token_id].item() for place, token_id in enumerate(token_ids[1:])]
    assert told["token_logprobs"][0] is None
    assert told["token_logprobs"][1 : len(token_ids)] == pytest.approx(expected, abs=1e-3)
    stop = len(token_ids)
    for place in range(len(context), stop):
        top = told["top_logprobs"][place]
        is_greedy = told["tokens"][place] == max(top, key=top.__getitem__)
        assert is_greedy == (int(table[place - 1].argmax()) == token_ids[place])
    text = answer["choices"][0]["text"]
    assert [text[start:].startswith(token) for start, token in zip(told["text_offset"], told["tokens"], strict=True)]


def test_parameters_reach_the_worker(openai: OpenAI) -> None:
    """Each is proved at the sampler; here, that none is lost on the way."""

    def complete(**parameters: object) -> str:
        answer = openai.completions.create(
            model="demo", prompt="The capital of France is", temperature=0, max_tokens=8, extra_body=parameters
        )
        return answer.choices[0].text

    free = complete()
    word = free.split()[0]
    assert complete(logit_bias={"5345": 100}) == complete(allowed_token_ids=[5345])
    assert len(set(complete(logit_bias={"5345": 100}).split())) == 1
    assert word not in complete(bad_words=[word])
    assert complete(repetition_penalty=3.0) != free
    assert complete(min_tokens=8, stop_token_ids=list(range(1000, 1256))) == free
    assert complete(stop=[word], include_stop_str_in_output=True).endswith(word)


class Person(pydantic.BaseModel):
    """Somebody."""

    name: str = pydantic.Field(max_length=30)
    age: int = pydantic.Field(ge=0, le=150)
    likes: list[Literal["tea", "coffee", "water"]] = pydantic.Field(min_length=1, max_length=3)


@pytest.mark.parametrize("parameters", [{"temperature": 0}, {"temperature": 1.5, "seed": 3, "frequency_penalty": 1.0}])
def test_an_answer_parses_into_a_model(openai: OpenAI, parameters: dict[str, float]) -> None:
    question = [{"role": "user", "content": "Describe somebody."}]
    answer = openai.chat.completions.parse(model="demo", messages=question, response_format=Person, **parameters)
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert choice.message.parsed is not None
    assert choice.message.parsed.likes
    with openai.chat.completions.stream(
        model="demo", messages=question, response_format=Person, **parameters
    ) as stream:
        assert stream.get_final_completion().choices[0].message.content == choice.message.content


def test_a_tool_is_called_by_a_model_that_knows_none(openai: OpenAI) -> None:
    tool = pydantic_function_tool(Person, name="introduce")
    calls = []
    for stream in (False, True):
        arguments = {"model": "demo", "messages": CHAT, "tools": [tool], "tool_choice": "required", "temperature": 0}
        if stream:
            with openai.chat.completions.stream(**arguments) as chunks:
                choice = chunks.get_final_completion().choices[0]
        else:
            choice = openai.chat.completions.create(**arguments, parallel_tool_calls=False).choices[0]
        assert choice.finish_reason == "tool_calls"
        calls.append(choice.message.tool_calls[0].function)
    assert calls[0].name == "introduce"
    assert calls[0].arguments == calls[1].arguments
    Person.model_validate_json(calls[0].arguments)
    earlier = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "introduce"}}]}
    result = {"role": "tool", "tool_call_id": "c", "content": "Pleased to meet you."}
    after = openai.chat.completions.create(model="demo", messages=[*CHAT, earlier, result], max_tokens=8, tools=[tool])
    assert after.choices[0].finish_reason in {"stop", "length"}


def test_a_grammar_that_is_refused_harms_nobody(url: str) -> None:
    body = {"model": "demo", "messages": CHAT, "max_tokens": 4}
    bad = httpx.post(f"{url}/v1/chat/completions", json=body | {"structured_outputs": {"regex": "("}})
    assert_openai_error(bad, 400)
    assert bad.json()["error"]["param"] == "structured_outputs.regex"
    assert httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 200


BAD_CHATS = {
    "no model": {"messages": CHAT},
    "unknown model": {"model": "gpt-17", "messages": CHAT},
    "no messages": {"model": "demo"},
    "empty messages": {"model": "demo", "messages": []},
    "unknown role": {"model": "demo", "messages": [{"role": "wizard", "content": "x"}]},
    "wrong type": {"model": "demo", "messages": CHAT, "temperature": "hot"},
    "negative temperature": {"model": "demo", "messages": CHAT, "temperature": -1},
    "NaN": {"model": "demo", "messages": CHAT, "temperature": math.nan},
    "negative max_tokens": {"model": "demo", "messages": CHAT, "max_tokens": -5},
    "10,000 stop strings": {"model": "demo", "messages": CHAT, "stop": [str(index) for index in range(10_000)]},
}
BAD_COMPLETIONS = {
    "too long": {"model": "demo", "prompt": [5] * 5000},
    "token out of range": {"model": "demo", "prompt": [1, 2, 10**6]},
    "negative token": {"model": "demo", "prompt": [-1]},
}


@pytest.mark.parametrize("name", [*BAD_CHATS, *BAD_COMPLETIONS])
def test_bad_input_gets_an_error_object(url: str, name: str) -> None:
    path = "chat/completions" if name in BAD_CHATS else "completions"
    body = (BAD_CHATS | BAD_COMPLETIONS)[name]
    response = httpx.post(f"{url}/v1/{path}", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert_openai_error(response, 404 if name == "unknown model" else 400)


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{not json", 400), (b"", 400), (b"[1, 2]", 400), (b'{"model": "\xff\xfe"}', 400), (b" " * 5_000_000, 413)],
    ids=["malformed", "empty", "a list", "invalid UTF-8", "5 MB"],
)
def test_bad_bytes_get_an_error_object(url: str, content: bytes, status: int) -> None:
    response = httpx.post(f"{url}/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert_openai_error(response, status)


def assert_openai_error(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in response.text


def test_all_is_well_after_all_that_bad_input(services: Services, url: str) -> None:
    assert httpx.get(f"{url}/health").status_code == 200
    for entry in services._directory.glob("*.log"):
        assert "Traceback" not in entry.read_text(), entry
