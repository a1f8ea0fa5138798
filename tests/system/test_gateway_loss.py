"""A gateway is killed while it makes a background response and works on a batch: another one goes on with both."""

import json
import time
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest

from tests.system.processes import Services

QUESTION = "Tell me a long story about a lighthouse."
NUM_TOKENS = 64
LINES = [
    {
        "custom_id": f"line {place}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "demo", "messages": [{"role": "user", "content": f"Say {place}."}], "max_tokens": 12},
    }
    for place in range(30)
]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with Services(tmp_path_factory.mktemp("gateways")) as running:
        running.start_all(workers=1, worker_flags=("--max-model-len", "512", "--kv-cache-memory-bytes", "256M"))
        yield running


def client(base_url: str) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{base_url}/v1", api_key="none", max_retries=0, timeout=120, _strict_response_validation=True
    )


def wait(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.model
def test_another_gateway_goes_on_with_what_a_killed_one_has_begun(services: Services) -> None:
    victim, first_url = services.processes[1], services.base_url
    services.start_gateway()
    services.wait_for_workers(1)
    with client(first_url) as first, client(services.base_url) as second:
        content = "\n".join(map(json.dumps, LINES)).encode()
        file = first.files.create(file=("in.jsonl", content), purpose="batch")
        batch = first.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        body = {"model": "demo", "input": QUESTION, "temperature": 0, "max_output_tokens": NUM_TOKENS}
        begun = first.responses.create(**body, background=True)
        seen = []
        for event in second.responses.retrieve(begun.id, stream=True):
            seen.append(event)
            if sum(event.type == "response.output_text.delta" for event in seen) == 10:
                break
        wait(lambda: second.batches.retrieve(batch.id).request_counts.completed >= 3)
        services.kill(victim)

        rest = list(second.responses.retrieve(begun.id, stream=True, starting_after=seen[-1].sequence_number))
        events = [*seen, *rest]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        made = second.responses.retrieve(begun.id)
        assert made.status in {"completed", "incomplete"}
        assert made.output_text == text
        assert text == second.responses.create(**body).output_text

        wait(lambda: second.batches.retrieve(batch.id).status == "completed", timeout_s=120)
        done = second.batches.retrieve(batch.id)
        assert done.request_counts is not None
        assert (done.request_counts.completed, done.request_counts.failed) == (len(LINES), 0)
        assert done.output_file_id is not None
        answers = [json.loads(line) for line in second.files.content(done.output_file_id).text.splitlines()]
        assert sorted(answer["custom_id"] for answer in answers) == sorted(line["custom_id"] for line in LINES)
        assert all(answer["response"]["body"]["choices"][0]["message"]["content"] for answer in answers)
    services.assert_nothing_is_left()


@pytest.mark.model
def test_what_is_told_of_tokens_and_texts_is_the_models_own(services: Services) -> None:
    with client(services.base_url) as api:
        made = api.responses.create(
            model="demo", input="Who are you?", temperature=0, max_output_tokens=8, top_logprobs=2,
            include=["message.output_text.logprobs"],
        )  # fmt: skip
        (part,) = made.output[0].content
        assert len(part.logprobs) == 8
        assert "".join(token.token for token in part.logprobs) == part.text
        assert all(token.logprob == token.top_logprobs[0].logprob for token in part.logprobs)
        body = {"model": "demo", "input": ["A cat.", "A kitten.", "The stock market fell."]}
        for pooling in ("last", "mean"):
            answer = httpx.post(f"{services.base_url}/v1/embeddings", json=body | {"pooling": pooling}, timeout=30)
            cat, kitten, market = (item["embedding"] for item in answer.json()["data"])
            near = sum(a * b for a, b in zip(cat, kitten, strict=True))
            far = sum(a * b for a, b in zip(cat, market, strict=True))
            assert near > far
            assert abs(sum(a * a for a in cat) - 1) < 1e-5
