"""Works on an archive's jobs: those begun here, and those whose worker is gone."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from shared.archive import RENEWAL_S, Archive, Claim
from shared.errors import BusError, ClaimLostError

_logger = logging.getLogger(__name__)

_POLL_S: Final = 1.0
_LAST_WORDS_S: Final = 0.5
"""At the end, how long jobs may take to be handed back: after that, their leases run out."""

Work = Callable[[Claim], Awaitable[None]]
"""Does a job, or as much of it as is possible now. It says in the archive when it is done; else somebody goes on."""


class JobRunner:
    """Runs each job in a task, renews its lease, and ends the task once another one has claimed the job."""

    def __init__(self, archive: Archive, work: Work, *, max_at_once: int) -> None:
        """Start with no job.

        Args:
            archive: Where the jobs are.
            work: What is to be done.
            max_at_once: Jobs at a time, at most.
        """
        self._archive = archive
        self._work = work
        self._max_at_once = max_at_once
        self._tasks: set[asyncio.Task[None]] = set()

    async def offer(self, claim: Claim) -> None:
        """Work on a job that we hold the claim to, or leave it to whoever has time first."""
        if len(self._tasks) < self._max_at_once:
            self._begin(claim)
        else:
            await self._archive.hand_back(claim)

    def _begin(self, claim: Claim) -> None:
        task = asyncio.get_running_loop().create_task(self._do(claim), name=f"job {claim.record_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> None:
        """Take jobs that nobody works on, until cancelled; then hand back what is under way."""
        try:
            while True:
                await self._take()
                await asyncio.sleep(_POLL_S * random.uniform(0.75, 1.25))  # noqa: S311 - lest gateways come as one
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_LAST_WORDS_S)

    async def _take(self) -> None:
        try:
            while len(self._tasks) < self._max_at_once and (claim := await self._archive.take_job()):
                self._begin(claim)
        except BusError as error:
            _logger.debug("jobs cannot be taken now: %s", error)

    async def _do(self, claim: Claim) -> None:
        working = asyncio.ensure_future(self._work(claim))
        renewing = asyncio.ensure_future(self._renew(claim))
        try:
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        except ClaimLostError as error:
            _logger.info("%s", error)
        except BusError as error:
            _logger.warning("%s waits: %s", claim.record_id, error)
        except Exception:
            _logger.exception("%s could not be worked on", claim.record_id)
        finally:
            working.cancel()
            renewing.cancel()
            await asyncio.gather(working, renewing, return_exceptions=True)
            with suppress(BusError):
                await self._archive.hand_back(claim)

    async def _renew(self, claim: Claim) -> None:
        """Keep the lease, and return once it is lost."""
        while True:
            await asyncio.sleep(RENEWAL_S)
            try:
                await self._archive.renew(claim)
            except ClaimLostError as error:
                _logger.info("%s", error)
                return
            except BusError as error:
                _logger.debug("a lease cannot be renewed now: %s", error)
