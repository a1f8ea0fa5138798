"""What a gateway does while nobody waits: background responses and batches, its own and those of the dead."""

from collections.abc import Callable
from typing import Final

from gateway.batches.work import BatchWork
from gateway.files.shelf import FileShelf
from gateway.http.loopback import Loopback
from gateway.responses.background import BackgroundResponses
from gateway.responses.service import ResponseService
from gateway.storage.archives import Archives
from gateway.storage.jobs import JobRunner

_MAX_RESPONSES: Final = 64
_MAX_BATCHES: Final = 2
"""Of each kind of job, what one gateway works on at a time."""

_MAX_LINES: Final = 32
"""Lines of one batch that are in the pool at a time."""


def response_jobs(archives: Archives, responses: ResponseService) -> JobRunner:
    """The runner that makes background responses."""
    return JobRunner(archives.responses, BackgroundResponses(responses).make, max_at_once=_MAX_RESPONSES)


def batch_jobs(archives: Archives, files: FileShelf, loopback: Loopback, is_idle: Callable[[], bool]) -> JobRunner:
    """The runner that works on batches."""
    work = BatchWork(archives.batches, files, loopback, is_idle=is_idle, max_lines_at_once=_MAX_LINES)
    return JobRunner(archives.batches, work.do, max_at_once=_MAX_BATCHES)
