"""One run of one scenario: a pool, its load, one fault after another, and the count of what came of it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from loadtest.chaos.answer import Answer
from loadtest.chaos.display import shown
from loadtest.chaos.faults import Fault, Happened, draw, inflict
from loadtest.chaos.leftovers import left_behind
from loadtest.chaos.load import Load
from loadtest.chaos.memory import Weight, growth, memory_of
from loadtest.chaos.oracle import FunctionOracle, Oracle, RecordedOracle
from loadtest.chaos.pool import Pool
from loadtest.chaos.report import ChaosResult
from loadtest.chaos.requests import RequestSource
from loadtest.chaos.scenario import Scenario
from loadtest.chaos.stalls import Span, Standstills, pauses, stalls
from loadtest.chaos.verdict import Verdict
from loadtest.tokenizer_source import load_tokenizer
from shared.errors import ServiceUnavailableError
from shared.stop_signals import STOP_SIGNALS

_UNDER_WAY_S: Final = 1.0
"""How long the load runs before the first fault."""

_POLL_INTERVAL_S: Final = 0.05
_RECOVERY_TIMEOUT_S: Final = 120.0
_SHOW_INTERVAL_S: Final = 0.5


class ChaosRun:
    """Runs once.

    Args:
        name: Of the scenario.
        scenario: What to do.
        logs: Directory of the services' logs.
        is_shown: Whether to draw how it goes.
    """

    def __init__(self, name: str, scenario: Scenario, logs: Path, *, is_shown: bool) -> None:
        self._name = name
        self._scenario = scenario
        self._logs = logs
        self._is_shown = is_shown
        self._faults: list[Happened] = []
        self._recoveries_s: list[float] = []
        self._standstills = Standstills()
        self._verdict = Verdict()
        self._pauses: list[Span] = []
        self._waits: list[Span] = []
        self._memory_before: dict[str, Weight] = {}
        self._memory_after: dict[str, Weight] = {}
        self._started_s = 0.0
        self._num_drawn = 0
        self._is_told_to_end = asyncio.Event()

    async def run(self) -> ChaosResult:
        """Do it. At SIGINT or SIGTERM it ends early, and says what there is to say.

        Raises:
            ConfigurationError: there is no Redis.
            ServiceUnavailableError: the pool does not even start.
        """
        scenario = self._scenario
        breakdown = None
        for number in STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._is_told_to_end.set)
        async with Pool(scenario, self._logs) as pool, _beside(self._standstills.watch()):
            oracle = await self._oracle(pool)
            source = RequestSource(scenario)
            load = Load(
                source, pool.gateway_urls, on_answer=lambda answer: self._take(answer, oracle), seed=scenario.seed
            )
            self._started_s = time.perf_counter()
            try:
                await self._break_under_load(pool, load)
            except TimeoutError:
                breakdown = (
                    f"the pool has not recovered within {_RECOVERY_TIMEOUT_S:.0f} s; its logs are in {self._logs}"
                )
            duration_s = time.perf_counter() - self._started_s
            left = await left_behind(pool)
        return ChaosResult(
            name=self._name,
            scenario=scenario,
            duration_s=duration_s,
            faults=self._faults,
            recoveries_s=self._recoveries_s,
            verdict=self._verdict,
            num_refused=load.num_refused,
            num_resumed=load.num_resumed,
            stalls=stalls(self._pauses, self._standstills),
            ttfts_s=self._standstills.lengths_without(self._waits),
            standstill_s=self._standstills.total_s,
            left=left,
            memory=growth(self._memory_before, self._memory_after),
            breakdown=breakdown,
        )

    async def _oracle(self, pool: Pool) -> Oracle:
        """Of a model only the model itself knows what is right: it is asked while nothing fails."""
        count = self._scenario.num_requests
        if self._scenario.runner == "fake" or count is None:
            return FunctionOracle(load_tokenizer("demo"))
        answers: list[Answer] = []
        source = RequestSource(self._scenario)
        asking = Load(source, pool.gateway_urls, on_answer=answers.append, seed=self._scenario.seed)
        with shown(f"{self._name}, undisturbed", count, is_wanted=self._is_shown) as update:
            async with _beside(_repeat(lambda: update(len(answers), ""))):
                await asking.ask_all(map(source.make, range(count)), self._scenario.streams)
        if broken := [answer for answer in answers if answer.error or not answer.is_complete]:
            raise ServiceUnavailableError(f"{len(broken)} requests failed while nothing was broken: {broken[0].error}")
        return RecordedOracle(answers)

    def _take(self, answer: Answer, oracle: Oracle) -> None:
        self._verdict.judge(answer, oracle.truth(answer), may_break=self._scenario.breaks_streams)
        self._pauses += pauses(answer)
        if answer.piece_times_s:
            self._waits.append(Span(answer.started_s, answer.piece_times_s[0]))

    async def _break_under_load(self, pool: Pool, load: Load) -> None:
        scenario = self._scenario
        total = scenario.num_faults or scenario.duration_s
        running = asyncio.create_task(load.run(scenario.streams))
        with shown(self._name, total, is_wanted=self._is_shown) as update:
            async with _beside(_repeat(lambda: update(self._num_done, self._news))), _beside(self._weigh_at_half(pool)):
                try:
                    await asyncio.sleep(_UNDER_WAY_S)
                    await self._inflict_all(pool, load)
                    await self._wait(self._started_s + scenario.duration_s - time.perf_counter())
                    self._memory_after = await asyncio.to_thread(memory_of, pool)
                finally:
                    load.stop()
                    await running

    async def _inflict_all(self, pool: Pool, load: Load) -> None:
        scenario = self._scenario
        overlapping: list[asyncio.Task[None]] = []
        while len(self._faults) < scenario.num_faults and not self._is_told_to_end.is_set():
            self._num_drawn += 1
            fault = draw(scenario, self._num_drawn)
            inflicting = asyncio.create_task(self._inflict(fault, pool))
            if fault.is_alone:
                await inflicting
                await self._recover(pool, load)
            else:
                overlapping.append(inflicting)
            await asyncio.sleep(fault.healthy_s)
        await asyncio.gather(*overlapping)
        await self._recover(pool, load)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_told_to_end.wait()

    async def _recover(self, pool: Pool, load: Load) -> None:
        """Wait until the pool is whole and every stream goes on."""
        since_s, still_s = time.perf_counter(), self._standstills.total_s
        waited_s = 0.0
        while not (load.flows(since_s) and await pool.is_whole()):
            await asyncio.sleep(_POLL_INTERVAL_S)
            waited_s = time.perf_counter() - since_s - (self._standstills.total_s - still_s)
            if waited_s > _RECOVERY_TIMEOUT_S:
                raise TimeoutError
        self._recoveries_s.append(waited_s)

    async def _inflict(self, fault: Fault, pool: Pool) -> None:
        start_s = time.perf_counter()
        victim = await inflict(fault, pool)
        if victim is None:
            return
        self._faults.append(Happened(fault.name, victim, start_s, time.perf_counter()))
        self._faults.sort(key=lambda happened: happened.start_s)

    async def _weigh_at_half(self, pool: Pool) -> None:
        if self._scenario.duration_s:
            await asyncio.sleep(self._scenario.duration_s / 2)
            self._memory_before = await asyncio.to_thread(memory_of, pool)

    @property
    def _num_done(self) -> float:
        return len(self._faults) if self._scenario.num_faults else time.perf_counter() - self._started_s

    @property
    def _news(self) -> str:
        verdict = self._verdict
        longest_s = max((span.stop_s - span.start_s for span in self._pauses), default=0.0)
        return (
            f"{len(self._faults)} faults, {verdict.num_answers} answers, {len(verdict.faulty)} faulty, "
            f"longest stall {longest_s:.1f} s"
        )


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do some work in the background, for so long."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _repeat(action: Callable[[], None]) -> None:
    while True:
        action()
        await asyncio.sleep(_SHOW_INTERVAL_S)
