"""A file of requests in, a file of answers out."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.batches.lines import Line, LineReader, refusal_of
from gateway.http.loopback import Loopback
from pagestream.batch.lines import ENDPOINTS, answered, refused
from shared.errors import ConfigurationError


class BatchFiles(NamedTuple):
    """Where requests come from and answers go to."""

    source: Path
    target: Path

    def check(self) -> None:
        """See that there is something to do, before a model is loaded for it.

        Raises:
            ConfigurationError: a file cannot be read or written.
        """
        try:
            if self.target.exists() and self.target.samefile(self.source):
                raise ConfigurationError(f"--output-file {self.target} is the input; name another file")
            with self.source.open("rb"), self.target.open("ab"):
                pass
        except OSError as error:
            raise ConfigurationError(f"cannot use {error.filename}: {error.strerror}; check the path") from error

    def count_lines(self) -> int:
        """Lines that are not empty."""
        with self.source.open("rb") as lines:
            return sum(1 for line in lines if line.strip())


class Tally:
    """How many lines have ended, and how.

    Attributes:
        num_answered: As they should be.
        num_failed: By an error, or as no request at all.
    """

    def __init__(self) -> None:
        self.num_answered = 0
        self.num_failed = 0

    def count(self, *, is_failure: bool) -> None:
        """Count a line."""
        self.num_failed += is_failure
        self.num_answered += not is_failure


async def run_batch(
    pool: Loopback, files: BatchFiles, tally: Tally, *, max_at_once: int, on_result: Callable[[], None]
) -> None:
    """Answer every line, several at once. What has been answered is written at once, so that it is not lost.

    Args:
        pool: Answers.
        files: The output is written anew.
        tally: Counts while it goes on.
        max_at_once: Requests under way.
        on_result: Called after each line.
    """
    with files.source.open("rb") as source, files.target.open("wb", buffering=0) as target:
        reader = LineReader(*ENDPOINTS)
        lines = iter(source)

        async def answer_lines() -> None:
            for data in lines:
                line = reader.read(data)
                if isinstance(line, Line):
                    answer = refusal_of(line) or await pool.post(line.url, msgspec.json.encode(line.body))
                    target.write(answered(line, answer))
                    tally.count(is_failure=answer.status >= HTTPStatus.BAD_REQUEST)
                    on_result()
                elif line is not None:
                    target.write(refused(data, line))
                    tally.count(is_failure=True)
                    on_result()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(max_at_once):
                tasks.create_task(answer_lines())
