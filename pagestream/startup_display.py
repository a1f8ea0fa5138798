"""What a person sees while the stack loads: one row per service, or plain lines where there is no terminal."""

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table


class StartupDisplay:
    """The latest stage of each service. Lines that the console prints meanwhile appear above it."""

    def __init__(self, console: Console, services: Iterable[str]) -> None:
        self._console = console
        self._rows = {service: Spinner("dots", text="starting") for service in services}
        self._live = Live(self._table(), console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is None:
            self._console.print(f"Starting {', '.join(self._rows)}.", markup=False, soft_wrap=True)
        else:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, service: str, stage: str) -> None:
        """Say what a service does now."""
        if self._live is None:
            self._console.print(f"{service}: {stage}", markup=False, soft_wrap=True)
        else:
            self._rows[service].update(text=escape(stage))

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for service, row in self._rows.items():
            table.add_row(service, row)
        return table
