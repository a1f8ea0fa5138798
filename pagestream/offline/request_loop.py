"""Runs requests to their end, several at once: the engine's loop behind `LLM`."""

import random
import time
from collections.abc import Sequence
from typing import NamedTuple

from gateway.prompt_tokens import PromptTokenizer
from pagestream.engine import LocalEngine
from pagestream.offline.generation import Generation
from pagestream.offline.outputs import RequestMetrics, RequestOutput
from pagestream.offline.progress_bar import BarMaker, ProgressBar
from pagestream.offline.prompts import Prompt
from pagestream.offline.sampling_params import SamplingParams
from shared.errors import InvalidArgumentError
from shared.ids import RequestId
from shared.sampling import SamplingParams as WireSamplingParams


class Request(NamedTuple):
    """One prompt and what is wanted of it.

    Attributes:
        priority: Lower runs first.
    """

    prompt: Prompt
    params: SamplingParams
    priority: int = 0


class RequestLoop:
    """Owns the engine. One thread at a time calls it.

    Attributes:
        max_model_len: Tokens of a prompt and its output together.

    Args:
        engine: Runs requests.
        prompts: The model's tokenizer.
        max_model_len: Tokens of a prompt and its output together.
        seed: Of the requests that bring none; None makes every run another.
    """

    def __init__(self, engine: LocalEngine, prompts: PromptTokenizer, *, max_model_len: int, seed: int | None) -> None:
        self._engine = engine
        self._prompts = prompts
        self.max_model_len = max_model_len
        self._seeds = random.Random(seed)  # noqa: S311 - repeatable is what it is for

    def run(
        self, requests: Sequence[Request], *, is_whole_text: bool = False, use_tqdm: bool | BarMaker = False
    ) -> list[RequestOutput]:
        """Run these and nothing else. Whatever interrupts it, nothing is left of them.

        Args:
            requests: Any number.
            is_whole_text: Whether outputs are texts of their own, as a chat's answers are.
            use_tqdm: Whether to show a progress bar, or what makes one.

        Returns:
            One output for each, in the same order.

        Raises:
            InvalidRequestError: one of them cannot be served; none has been run.
        """
        sampling = [self._sampling(request, number) for number, request in enumerate(requests)]
        running: dict[RequestId, Generation] = {}
        arrived_at, arrived_s = time.time(), time.perf_counter()
        try:
            for request, params in zip(requests, sampling, strict=True):
                prompt, vocabulary = request.prompt, self._prompts.tokenizer.vocabulary
                metrics = RequestMetrics(arrived_at=arrived_at)
                request_id = self._engine.submit(
                    prompt.token_ids, params, priority=request.priority, cache_salt=prompt.cache_salt
                )
                running[request_id] = Generation(
                    prompt, request.params, vocabulary, is_whole_text=is_whole_text, metrics=metrics
                )
            with ProgressBar(len(requests), use_tqdm) as bar:
                self._run(running, bar, arrived_s)
        except BaseException:
            self._engine.reset()
            raise
        return [generation.output(request_id) for request_id, generation in running.items()]

    def reset_prefix_cache(self) -> None:
        """Forget what earlier requests have computed."""
        self._engine.reset()

    def _run(self, running: dict[RequestId, Generation], bar: ProgressBar, arrived_s: float) -> None:
        while self._engine.has_unfinished_requests:
            admitted, outputs = self._engine.step()
            now_s = time.perf_counter() - arrived_s
            for request_id, admitted_s in admitted:
                running[request_id].admit(admitted_s - arrived_s)
            for output in outputs:
                generation = running[output.request_id]
                if generation.push(output, now_s):
                    self._engine.cancel(output.request_id, output.choice)
                if generation.is_finished:
                    bar.advance(len(generation.prompt.token_ids), generation.metrics.num_generation_tokens)

    def _sampling(self, request: Request, number: int) -> WireSamplingParams:
        """As it crosses the wire to a worker.

        Raises:
            InvalidRequestError: something is wrong.
        """
        prompt, params = request.prompt, request.params
        params.verify()
        rest = self.max_model_len - len(prompt.token_ids)
        if not prompt.token_ids or rest < 1:
            raise InvalidArgumentError(
                f"prompt {number} has {len(prompt.token_ids)} tokens; it must have at least 1, and at most "
                f"{self.max_model_len - 1} in a context of {self.max_model_len}: shorten it, or raise max_model_len",
                param="prompts",
            )
        for name in ("stop_token_ids", "allowed_token_ids"):
            self._prompts.check_ids(getattr(params, name) or (), name)
        biases = {int(token): bias for token, bias in (params.logit_bias or {}).items()}
        self._prompts.check_ids(list(biases), "logit_bias")
        max_tokens = min(params.max_tokens or rest, rest)
        ends = () if params.ignore_eos else self._prompts.tokenizer.eos_token_ids
        return WireSamplingParams(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=max(params.top_k, 0),
            min_p=params.min_p,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            repetition_penalty=params.repetition_penalty,
            seed=self._seeds.getrandbits(64) if params.seed is None else params.seed % 2**64,
            max_tokens=max_tokens,
            min_tokens=min(params.min_tokens, max_tokens),
            stop_token_ids=tuple(dict.fromkeys((*(params.stop_token_ids or ()), *ends))),
            n=params.n,
            logit_bias=tuple(biases.items()),
            allowed_token_ids=tuple(dict.fromkeys(params.allowed_token_ids or ())),
            bad_words=self._prompts.bad_words(params.bad_words or ()),
            logprobs=self._num_told(params.logprobs),
            prompt_logprobs=self._num_told(params.prompt_logprobs),
        )

    def _num_told(self, asked: int | None) -> int | None:
        return self._prompts.tokenizer.vocab_size if asked == -1 else asked
