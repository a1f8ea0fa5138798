"""A file of requests in, a file of answers out."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pagestream.batch.lines import BatchReader, BatchRequest, BatchResult, result_of
from pagestream.batch.local_pool import LocalPool
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
        num_succeeded: Answered.
        num_failed: Answered with an error, or no request at all.
    """

    def __init__(self) -> None:
        self.num_succeeded = 0
        self.num_failed = 0

    def count(self, result: BatchResult) -> None:
        """Count a line."""
        if result.response is not None and result.response.is_success:
            self.num_succeeded += 1
        else:
            self.num_failed += 1


async def run_batch(
    pool: LocalPool, files: BatchFiles, tally: Tally, *, max_at_once: int, on_result: Callable[[], None]
) -> None:
    """Answer every line, several at once. Each result is written as soon as it is there, so that nothing done is lost.

    Args:
        pool: Answers.
        files: The output is written anew.
        tally: Counts while it goes on.
        max_at_once: Requests under way.
        on_result: Called after each line.
    """
    with files.source.open("rb") as source, files.target.open("wb", buffering=0) as target:
        lines = _requests(source)

        def write(result: BatchResult) -> None:
            target.write(result.encode())
            tally.count(result)
            on_result()

        async def answer_lines() -> None:
            for item in lines:
                if isinstance(item, BatchRequest):
                    write(result_of(item, await pool.post(item.url, item.body)))
                else:
                    write(item)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(max_at_once):
                tasks.create_task(answer_lines())


def _requests(source: BinaryIO) -> Iterator[BatchRequest | BatchResult]:
    reader = BatchReader()
    return (reader.read(line) for line in source if line.strip())
