"""Where a run's result is kept."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from loadtest.settings import BenchSettings
from shared.errors import ConfigurationError


class ResultFile:
    """One JSON document, or with --append-result one more line of a file."""

    def __init__(self, path: Path, *, is_appended: bool) -> None:
        self.path = path
        self._is_appended = is_appended

    @classmethod
    def of(cls, settings: BenchSettings, *, model: str, date: str) -> "ResultFile | None":
        """The file that the settings ask for, if they do; named by what was run unless they name it."""
        reporting, traffic = settings.reporting, settings.traffic
        if not (reporting.save_result or reporting.append_result):
            return None
        label = reporting.label or settings.target.backend
        concurrency = "" if traffic.max_concurrency is None else f"-concurrency{traffic.max_concurrency}"
        name = f"{label}-{traffic.request_rate}qps{concurrency}-{Path(model).name}-{date}.json"
        directory = reporting.result_dir or Path()
        return cls(directory / (reporting.result_filename or name), is_appended=reporting.append_result)

    def prepare(self) -> None:
        """Make sure that it can be written, before minutes are spent on measuring.

        Raises:
            ConfigurationError: it cannot.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("ab").close()
        except OSError as error:
            raise ConfigurationError(
                f"the result cannot be written to {self.path}: {error.strerror}; "
                "give another --result-dir or --result-filename"
            ) from error

    def write(self, result: Mapping[str, object]) -> None:
        """Keep a result."""
        with self.path.open("ab" if self._is_appended else "wb") as file:
            file.write(b"\n" if file.tell() else b"")
            file.write(msgspec.json.encode(result))
