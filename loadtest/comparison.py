"""What the runs of several servers amount to, side by side. Pure."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loadtest.comparison_settings import Load
from loadtest.measurement import Measurement


@dataclass(frozen=True, slots=True)
class Figure:
    """What is compared.

    Attributes:
        key: In the saved result.
        title: In the table.
        is_better_larger: Of two, which one is better.
        of: Takes it from a measurement.
    """

    key: str
    title: str
    is_better_larger: bool
    of: Callable[[Measurement], float]


FIGURES: Final = (
    Figure("output_throughput", "output tokens/s", True, lambda run: run.output_throughput),  # noqa: FBT003
    Figure("median_ttft_ms", "median TTFT, ms", False, lambda run: run.distributions["ttft"].median),  # noqa: FBT003
    Figure("median_itl_ms", "median ITL, ms", False, lambda run: run.distributions["itl"].median),  # noqa: FBT003
)


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement of one server.

    Attributes:
        load_average: Of the machine over the last minute, when it began; the server itself is part of it.
    """

    measurement: Measurement
    load_average: float


@dataclass(frozen=True, slots=True)
class ServerRuns:
    """All that was seen of one server.

    Attributes:
        command: How it was started; its address if it ran already.
        runs: Of each load.
    """

    name: str
    command: Sequence[str]
    runs: Mapping[Load, Sequence[Run]]

    def values(self, load: Load, figure: Figure) -> list[float]:
        """One for each run."""
        return [figure.of(run.measurement) for run in self.runs[load]]

    def median(self, load: Load, figure: Figure) -> float:
        """Of the runs."""
        return statistics.median(self.values(load, figure))

    def faults(self, output_len: int) -> list[str]:
        """Why these figures are not worth comparing: requests that failed, answers that are shorter than asked for."""
        found = []
        for load, runs in self.runs.items():
            for number, run in enumerate(runs, start=1):
                measurement = run.measurement
                where = f"{self.name}, {load}, run {number}"
                found += [f"{where}: {count} requests failed: {why}" for why, count in measurement.errors.items()]
                wanted = measurement.num_completed * output_len
                if measurement.num_output_tokens != wanted:
                    found.append(f"{where}: {measurement.num_output_tokens} output tokens instead of {wanted}")
        return found


def ratio(ours: ServerRuns, peer: ServerRuns, load: Load, figure: Figure) -> float | None:
    """How many times better we are, by the medians; None where nothing was measured."""
    mine, theirs = ours.median(load, figure), peer.median(load, figure)
    better, worse = (mine, theirs) if figure.is_better_larger else (theirs, mine)
    return better / worse if mine and theirs else None


def as_table(servers: Sequence[ServerRuns], loads: Sequence[Load]) -> str:
    """Medians with least and most; beside each peer's, how many times better the first server is."""
    ours, *peers = servers
    rows = [["", "", ours.name, *(cell for peer in peers for cell in (peer.name, ""))]]
    for load in loads:
        for index, figure in enumerate(FIGURES):
            row = ["" if index else str(load), figure.title, _show(ours.values(load, figure))]
            for peer in peers:
                times = ratio(ours, peer, load, figure)
                row += [_show(peer.values(load, figure)), "-" if times is None else f"x{times:.2f}"]
            rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _show(values: Sequence[float]) -> str:
    median = _number(statistics.median(values))
    return median if len(values) == 1 else f"{median} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    """In three digits: runs agree on no more."""
    return f"{value:.1f}" if round(value, 1) < 100 else f"{value:.0f}"  # noqa: PLR2004


def as_document(servers: Sequence[ServerRuns], loads: Sequence[Load]) -> dict[str, object]:
    """The same for a file, with every run."""
    ours, *peers = servers
    return {
        "servers": [_server(server, loads) for server in servers],
        "times_better": {
            peer.name: [{figure.key: ratio(ours, peer, load, figure) for figure in FIGURES} for load in loads]
            for peer in peers
        },
    }


def _server(server: ServerRuns, loads: Sequence[Load]) -> dict[str, object]:
    return {
        "name": server.name,
        "command": list(server.command),
        "loads": [
            {
                "max_concurrency": load.max_concurrency,
                "request_rate": "inf" if load.max_concurrency is not None else load.request_rate,
                "num_prompts": load.num_prompts,
                **{figure.key: server.median(load, figure) for figure in FIGURES},
                "runs": [_run(run) for run in server.runs[load]],
            }
            for load in loads
        ],
    }


def _run(run: Run) -> dict[str, object]:
    measurement = run.measurement
    return {
        "load_average": run.load_average,
        "duration": measurement.duration_s,
        "completed": measurement.num_completed,
        "failed": measurement.num_failed,
        "total_input_tokens": measurement.num_input_tokens,
        "total_output_tokens": measurement.num_output_tokens,
        **{figure.key: figure.of(measurement) for figure in FIGURES},
        "p99_ttft_ms": measurement.distributions["ttft"].percentiles[99.0],
        "p99_itl_ms": measurement.distributions["itl"].percentiles[99.0],
    }
