"""How far a run is, where somebody watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_REDRAWS_PER_S = 2.0
"""Few: a bar takes its time from the same cores as the measurement."""


@contextmanager
def progress_of(what: str, total: int, *, is_wanted: bool) -> Iterator[Callable[[], None]]:
    """Draw a bar on a terminal, on nothing else. Gives what to call for each step."""
    if not (is_wanted and sys.stderr.isatty()):
        yield lambda: None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=_REDRAWS_PER_S) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
