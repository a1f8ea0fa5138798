"""Runs requests to their end, several at once: the engine's loop behind `LLM`."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from gateway.tokenizers.vocabulary import Vocabulary
from pagestream.engine import LocalEngine
from pagestream.offline.generation import Generation
from pagestream.offline.outputs import RequestMetrics
from pagestream.offline.progress_bar import BarMaker, ProgressBar
from pagestream.offline.wire_requests import Request, WireRequests
from shared.ids import RequestId


class _Running(NamedTuple):
    """A request that has not ended, and when it came (`time.perf_counter`)."""

    generation: Generation
    arrived_s: float


class RequestLoop:
    """Owns the engine. One thread at a time calls it.

    Invariant: `_running` holds the requests that the engine has and that have not been looked at since they ended.

    Args:
        engine: Runs requests.
        wire: Knows the model's limits.
        vocabulary: The model's.
    """

    def __init__(self, engine: LocalEngine, wire: WireRequests, vocabulary: Vocabulary) -> None:
        self._engine = engine
        self._wire = wire
        self._vocabulary = vocabulary
        self._running: dict[RequestId, _Running] = {}
        self._enqueued: list[Generation] = []

    def run(
        self, requests: Sequence[Request], *, is_whole_text: bool = False, use_tqdm: bool | BarMaker = False
    ) -> list[Generation]:
        """Run these, and with them what has been enqueued. Whatever interrupts it, nothing is left of any of them.

        Args:
            requests: Any number.
            is_whole_text: Whether outputs are texts of their own, as a chat's answers are.
            use_tqdm: Whether to show a progress bar, or what makes one.

        Returns:
            One for each, finished, in the same order.

        Raises:
            InvalidRequestError: one of them cannot be served; none has been run.
        """
        generations = self._submit(requests, is_whole_text=is_whole_text)
        self._finish_all(use_tqdm=use_tqdm)
        return generations

    def enqueue(self, requests: Sequence[Request], *, is_whole_text: bool = False) -> list[RequestId]:
        """Have these run with whatever is run next; arguments and errors are as in `run`. Returns their names."""
        generations = self._submit(requests, is_whole_text=is_whole_text)
        self._enqueued += generations
        return [RequestId(generation.request_id) for generation in generations]

    def run_enqueued(self, *, use_tqdm: bool | BarMaker = False) -> list[Generation]:
        """Run what has been enqueued since the last call, and return it in that order."""
        self._finish_all(use_tqdm=use_tqdm)
        finished, self._enqueued = self._enqueued, []
        return finished

    def reset_prefix_cache(self) -> bool:
        """Forget what earlier requests have computed, unless some are waiting. Returns whether it is forgotten."""
        if self._running:
            return False
        self._engine.reset()
        return True

    def _submit(self, requests: Sequence[Request], *, is_whole_text: bool) -> list[Generation]:
        sampling = [self._wire.sampling(request, number) for number, request in enumerate(requests)]
        arrived_at, arrived_s = time.time(), time.perf_counter()
        generations = []
        try:
            for request, params in zip(requests, sampling, strict=True):
                prompt = request.prompt
                metrics = RequestMetrics(arrived_at=arrived_at)
                request_id = self._engine.submit(
                    prompt.token_ids, params, priority=request.priority, cache_salt=prompt.cache_salt
                )
                generation = Generation(
                    request_id, prompt, request.params, self._vocabulary, is_whole_text=is_whole_text, metrics=metrics
                )
                self._running[request_id] = _Running(generation, arrived_s)
                generations.append(generation)
        except BaseException:
            self._drop_all()
            raise
        return generations

    def _finish_all(self, *, use_tqdm: bool | BarMaker) -> None:
        try:
            with ProgressBar(len(self._running), use_tqdm) as bar:
                while self._engine.has_unfinished_requests:
                    self._step(bar)
        except BaseException:
            self._drop_all()
            raise
        self._running.clear()

    def _drop_all(self) -> None:
        self._engine.reset()
        self._running.clear()
        self._enqueued.clear()

    def _step(self, bar: ProgressBar) -> None:
        admitted, outputs = self._engine.step()
        now_s = time.perf_counter()
        for request_id, admitted_s in admitted:
            running = self._running[request_id]
            running.generation.admit(admitted_s - running.arrived_s)
        for output in outputs:
            generation, arrived_s = self._running[output.request_id]
            if generation.push(output, now_s - arrived_s):
                self._engine.cancel(output.request_id, output.choice)
            if generation.is_finished:
                bar.advance(len(generation.prompt.token_ids), generation.metrics.num_generation_tokens)
