"""Requests run to their end on a fake runner, whose tokens are bytes."""

from typing import Any

import pytest

from gateway.tokenizers.gguf_tokenizer import tokenizer_from_gguf
from gateway.tokenizers.prompt_tokens import PromptTokenizer
from gpu_worker.fake_runner import FakeRunner, fake_token
from pagestream.engine import LocalEngine
from pagestream.offline.outputs import RequestOutput
from pagestream.offline.prompts import PromptInput, as_list, read_prompt
from pagestream.offline.request_loop import RequestLoop
from pagestream.offline.sampling_params import SamplingParams
from pagestream.offline.wire_requests import Request, WireRequests
from shared.errors import InvalidRequestError
from shared.ids import RequestId
from shared.messages import WorkerCapabilities
from tests.gateway.conftest import BYTE_METADATA, EOS

CAPABILITIES = WorkerCapabilities(
    model="fake", block_size=4, num_blocks=128, max_model_len=64, max_num_seqs=4, max_num_batched_tokens=16
)
TOKENIZER = PromptTokenizer(tokenizer_from_gguf(BYTE_METADATA))
WIRE = WireRequests(TOKENIZER, max_model_len=64, seed=0)


class Loop:
    """A `RequestLoop` and what its engine holds."""

    def __init__(self, **settings: Any) -> None:
        self.engine = LocalEngine(FakeRunner(CAPABILITIES, vocab_size=256, **settings))
        self.loop = RequestLoop(self.engine, WIRE, TOKENIZER.tokenizer.vocabulary)

    def run(self, prompts: Any, use_tqdm: Any = False, **params: Any) -> list[RequestOutput]:
        read = [read_prompt(prompt, TOKENIZER) for prompt in as_list(prompts)]
        requests = [Request(prompt, SamplingParams(**params)) for prompt in read]
        generations = self.loop.run(requests, use_tqdm=use_tqdm)
        self.assert_idle()
        return [generation.output() for generation in generations]

    def assert_idle(self) -> None:
        assert not self.engine.has_unfinished_requests
        self.engine.scheduler.check()


def expected(request: int, num_tokens: int, choice: int = 0) -> list[int]:
    return [fake_token(RequestId(f"local-{request}"), choice, index, 256) for index in range(num_tokens)]


def test_every_prompt_gets_its_outputs_in_the_order_of_the_prompts() -> None:
    prompts = [f"prompt {number}" for number in range(9)]
    outputs = Loop().run(prompts, max_tokens=5, n=2)
    assert [output.prompt for output in outputs] == prompts
    for number, output in enumerate(outputs):
        assert output.prompt_token_ids == list(prompts[number].encode())
        assert [list(choice.token_ids) for choice in output.outputs] == [expected(number, 5, i) for i in (0, 1)]
        assert [choice.finish_reason for choice in output.outputs] == ["length", "length"]
        assert output.outputs[1].text == bytes(expected(number, 5, 1)).decode(errors="replace")


def test_times_are_seconds_since_the_arrival() -> None:
    for output in Loop().run(["a", "b", "c", "d", "e", "f"], max_tokens=6):
        metrics = output.metrics
        assert metrics.arrival_time == 0
        assert metrics.first_scheduled_time is not None
        assert metrics.first_token_time is not None
        assert 0 < metrics.first_scheduled_time < metrics.first_token_time < metrics.finished_time
        assert metrics.time_in_queue == metrics.first_scheduled_time
        speed = len(output.outputs[0].token_ids) / output.metrics.finished_time
        assert speed == metrics.tokens_per_second
        assert metrics.decode_tokens_per_second is not None
        assert metrics.decode_tokens_per_second > speed


def test_a_stop_string_ends_a_choice_and_frees_its_place() -> None:
    loop = Loop()
    whole = bytes(expected(0, 40)).decode("latin-1")
    stop = next(letter for letter in whole[5:] if letter.isascii() and letter.isprintable())
    place = whole.index(stop)
    (output,) = loop.run([1, 2, 3], max_tokens=40, stop=[stop])
    (choice,) = output.outputs
    assert (choice.finish_reason, choice.stop_reason) == ("stop", stop)
    assert list(choice.token_ids) == expected(0, place + 1)
    assert choice.text == bytes(expected(0, place)).decode(errors="replace")


def test_what_ends_a_text_may_be_shown() -> None:
    loop = Loop(length=lambda _request, _choice: 4)
    shown = {"include_stop_str_in_output": True, "skip_special_tokens": False}
    (choice,) = loop.run("x", max_tokens=9, stop_token_ids=[256], **shown)[0].outputs
    assert choice.text == bytes(expected(0, 3)).decode(errors="replace") + "<|im_start|>"
    letter = chr(next(token for token in expected(1, 3) if token < 128))
    (choice,) = loop.run("x", max_tokens=9, stop=letter, **shown)[0].outputs
    assert choice.text.endswith(letter)


def test_the_models_own_end_is_no_reason_but_a_stop_token_is() -> None:
    loop = Loop(length=lambda _request, _choice: 4)
    (own,) = loop.run("x", max_tokens=9)[0].outputs
    assert (own.finish_reason, own.stop_reason, own.token_ids[-1]) == ("stop", None, EOS)
    (asked,) = loop.run("x", max_tokens=9, stop_token_ids=[70])[0].outputs
    assert (asked.finish_reason, asked.stop_reason, asked.token_ids[-1]) == ("stop", 70, 70)
    assert asked.text == bytes(asked.token_ids[:-1]).decode(errors="replace")


def test_log_probabilities_stand_beside_their_tokens() -> None:
    (output,) = Loop().run("hello", max_tokens=4, logprobs=2, prompt_logprobs=0)
    (choice,) = output.outputs
    assert choice.logprobs is not None
    total = 0.0
    for token, told in zip(choice.token_ids, choice.logprobs, strict=True):
        rank = 1 + token % 3  # as `fake_logprobs` has it
        assert (told[token].rank, told[token].logprob) == (rank, -rank / 4)
        assert told[token].decoded_token == bytes([token]).decode(errors="replace")
        assert len(told) == (2 if rank <= 2 else 3)
        total += told[token].logprob
    assert choice.cumulative_logprob == total
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    assert [told and list(told) for told in output.prompt_logprobs[1:]] == [[byte] for byte in b"ello"]


def test_nothing_is_told_that_nobody_asked_for() -> None:
    (output,) = Loop().run("x", max_tokens=3, detokenize=False)
    (choice,) = output.outputs
    assert (choice.text, choice.logprobs, choice.cumulative_logprob) == ("", None, None)
    assert output.prompt_logprobs is None
    assert len(choice.token_ids) == 3


def test_a_shared_prefix_is_found_in_the_next_call_unless_it_is_forgotten() -> None:
    loop = Loop()
    prompt = list(range(10))
    assert [loop.run(prompt, max_tokens=1)[0].num_cached_tokens for _ in range(2)] == [0, 8]
    loop.loop.reset_prefix_cache()
    assert loop.run(prompt, max_tokens=1)[0].num_cached_tokens == 0


def test_without_a_limit_the_output_fills_the_context_and_never_more() -> None:
    loop = Loop()
    for limit in (None, 1000):
        (choice,) = loop.run("four", max_tokens=limit)[0].outputs
        assert (len(choice.token_ids), choice.finish_reason) == (60, "length")


def test_whoever_interrupts_a_run_leaves_nothing_behind() -> None:
    loop = Loop()

    class Interrupting:
        def __init__(self, **_: Any) -> None:
            pass

        def set_postfix_str(self, *_: Any, **__: Any) -> None:
            pass

        def update(self, _: int) -> None:
            raise KeyboardInterrupt

        def close(self) -> None:
            pass

    with pytest.raises(KeyboardInterrupt):
        loop.run(["a", "b", "c", "d", "e", "f"], max_tokens=20, use_tqdm=Interrupting)
    loop.assert_idle()
    (output,) = loop.run("next", max_tokens=3)
    assert list(output.outputs[0].token_ids) == expected(6, 3)


def test_a_runner_that_fails_fails_the_call_and_not_the_next() -> None:
    class Failing(FakeRunner):
        is_failing = True

        def step(self, plan: Any) -> Any:
            if self.is_failing:
                raise RuntimeError("out of order")
            return super().step(plan)

    runner = Failing(CAPABILITIES, vocab_size=256)
    loop = RequestLoop(LocalEngine(runner), WIRE, TOKENIZER.tokenizer.vocabulary)
    request = Request(read_prompt("x", TOKENIZER), SamplingParams(max_tokens=2))
    with pytest.raises(RuntimeError, match="out of order"):
        loop.run([request])
    runner.is_failing = False
    assert len(loop.run([request])[0].output().outputs[0].token_ids) == 2


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("x" * 64, "prompt 0 has 64 tokens; it must have at least 1, and at most 63 in a context of 64"),
        ("", "prompt 0 has 0 tokens"),
        ([1, 300], r"token id 300 is not in the vocabulary \[0, 258\)"),
        ([1, "a"], "prompt is 1, but must be a string, a list of token ids, or a dict"),
        ({"prompt": "x", "multi_modal_data": {}}, "the key 'multi_modal_data', which is not served"),
        ({"cache_salt": "x"}, "a prompt needs 'prompt', a text, or 'prompt_token_ids'"),
    ],
)
def test_a_prompt_that_cannot_be_served_is_refused_before_anything_runs(prompt: Any, reason: str) -> None:
    loop = Loop()
    with pytest.raises(InvalidRequestError, match=reason):
        loop.run(prompt, max_tokens=2)
    loop.assert_idle()


@pytest.mark.parametrize(
    ("given", "count", "text"),
    [
        ("ab", 1, "ab"),
        (["ab", "c"], 2, "ab"),
        ([97, 98], 1, None),
        ([[97, 98], [97]], 2, None),
        ({"prompt": "ab"}, 1, "ab"),
        ({"prompt_token_ids": [97, 98]}, 1, None),
        ([{"prompt": "ab", "prompt_token_ids": [97, 98]}, "x"], 2, "ab"),
        ([], 0, None),
    ],
)
def test_prompts_come_in_every_form_of_vllms(given: PromptInput, count: int, text: str | None) -> None:
    outputs = Loop().run(given, max_tokens=1)
    assert len(outputs) == count
    if outputs:
        assert (outputs[0].prompt, outputs[0].prompt_token_ids) == (text, [97, 98])
