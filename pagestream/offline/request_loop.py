"""Runs requests to their end, several at once: the engine's loop behind `LLM`."""

import time
from collections.abc import Sequence

from gateway.tokenizers.vocabulary import Vocabulary
from pagestream.engine import LocalEngine
from pagestream.offline.generation import Generation
from pagestream.offline.outputs import RequestMetrics
from pagestream.offline.progress_bar import BarMaker, ProgressBar
from pagestream.offline.wire_requests import Request, WireRequests
from shared.ids import RequestId


class RequestLoop:
    """Owns the engine. One thread at a time calls it.

    Args:
        engine: Runs requests.
        wire: Knows the model's limits.
        vocabulary: The model's.
    """

    def __init__(self, engine: LocalEngine, wire: WireRequests, vocabulary: Vocabulary) -> None:
        self._engine = engine
        self._wire = wire
        self._vocabulary = vocabulary

    def run(
        self, requests: Sequence[Request], *, is_whole_text: bool = False, use_tqdm: bool | BarMaker = False
    ) -> list[Generation]:
        """Run these and nothing else. Whatever interrupts it, nothing is left of them.

        Args:
            requests: Any number.
            is_whole_text: Whether outputs are texts of their own, as a chat's answers are.
            use_tqdm: Whether to show a progress bar, or what makes one.

        Returns:
            One for each, finished, in the same order.

        Raises:
            InvalidRequestError: one of them cannot be served; none has been run.
        """
        sampling = [self._wire.sampling(request, number) for number, request in enumerate(requests)]
        running: dict[RequestId, Generation] = {}
        arrived_at, arrived_s = time.time(), time.perf_counter()
        try:
            for request, params in zip(requests, sampling, strict=True):
                prompt = request.prompt
                metrics = RequestMetrics(arrived_at=arrived_at)
                request_id = self._engine.submit(
                    prompt.token_ids, params, priority=request.priority, cache_salt=prompt.cache_salt
                )
                running[request_id] = Generation(
                    request_id, prompt, request.params, self._vocabulary, is_whole_text=is_whole_text, metrics=metrics
                )
            with ProgressBar(len(requests), use_tqdm) as bar:
                self._run(running, bar, arrived_s)
        except BaseException:
            self._engine.reset()
            raise
        return list(running.values())

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
