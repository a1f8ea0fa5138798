"""One line that says how a run goes, where somebody watches."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

_REDRAWS_PER_S: Final = 2.0

Update = Callable[[float, str], None]
"""Takes how much is done, and what else there is to say."""


@contextmanager
def shown(what: str, total: float, *, is_wanted: bool) -> Iterator[Update]:
    """Draw a bar on a terminal, on nothing else.

    Args:
        what: Is done.
        total: How much there is to do.
        is_wanted: Whether to draw at all.
    """
    if not (is_wanted and sys.stderr.isatty()):
        yield lambda _completed, _text: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=_REDRAWS_PER_S) as progress:
        task = progress.add_task(what, total=total, text="")
        yield lambda completed, text: progress.update(task, completed=completed, text=text)
