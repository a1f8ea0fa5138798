"""A picture of a run: how long tokens took to come, and how many came when."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from loadtest.record import RequestRecord
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NUM_BINS: Final = 60
_MAX_SECONDS: Final = 120
"""Points of the curve over time at most; a longer run's are further apart."""
_MEDIAN, _TAIL = 50.0, 99.0
_BARS: Final = "#4c72b0"


class Plot:
    """One file to be drawn."""

    def __init__(self, path: Path) -> None:
        """See that it can be drawn, before minutes are spent on measuring.

        Raises:
            ConfigurationError: matplotlib is not installed, or the file cannot be written.
        """
        try:
            import matplotlib  # half a second that other runs do not need
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"--plot {path} needs matplotlib, which is not installed; pip install 'pagestream[bench]'"
            ) from error
        kinds = ("png", "svg", "pdf")
        if path.suffix.lstrip(".") not in kinds:
            raise ConfigurationError(f"--plot {path} must end in one of .{', .'.join(kinds)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()
        except OSError as error:
            raise ConfigurationError(f"--plot {path} cannot be written: {error.strerror}; name another file") from error
        # No window, and no display: servers have none.
        matplotlib.use("Agg")
        self.path = path

    def draw(self, records: Sequence[RequestRecord], *, title: str) -> None:
        """Draw the answered requests of a run."""
        from matplotlib.figure import Figure  # see above

        answered = [record for record in records if record.error is None]
        figure = Figure(figsize=(11, 8), layout="constrained")
        figure.suptitle(title)
        panels = figure.subplot_mosaic([["ttft", "itl"], ["rate", "rate"]])
        _draw_distribution(panels["ttft"], "Time to first token", [record.ttft_s for record in answered])
        _draw_distribution(panels["itl"], "Inter-token latency", [itl for record in answered for itl in record.itls_s])
        _draw_rate(panels["rate"], answered)
        figure.savefig(self.path, dpi=120)


def _draw_distribution(axes: "Axes", title: str, values_s: Iterable[float]) -> None:
    """A histogram with median and 99th percentile. The few values beyond twice the latter are in the last bin."""
    axes.set_title(title)
    axes.set_xlabel("milliseconds")
    axes.set_ylabel("requests" if title.startswith("Time") else "tokens")
    values_ms = np.fromiter(values_s, float) * 1e3
    if not len(values_ms):
        return
    median, tail = np.percentile(values_ms, [_MEDIAN, _TAIL])
    edges = np.linspace(0, max(min(values_ms.max(), 2 * tail), 1e-3), _NUM_BINS + 1)
    axes.hist(np.minimum(values_ms, edges[-1]), edges.tolist(), color=_BARS)
    for value, name, style in ((median, "median", "-"), (tail, "P99", "--")):
        axes.axvline(value, color="black", linestyle=style, label=f"{name} {value:.1f} ms")
    axes.set_xlim(0, edges[-1])
    axes.legend()


def _draw_rate(axes: "Axes", records: Sequence[RequestRecord]) -> None:
    axes.set_title("Output over time")
    axes.set_xlabel("seconds from the first request")
    axes.set_ylabel("output tokens per second", color=_BARS)
    if not records:
        return
    edges, rates, running = over_time(records)
    axes.stairs(rates, edges, fill=True, color=_BARS, alpha=0.7)
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(0)
    beside = axes.twinx()
    beside.stairs(running, edges, baseline=None, color="black")
    beside.set_ylabel("requests under way")
    beside.set_ylim(0)


def over_time(
    records: Sequence[RequestRecord],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What happened in each of the intervals of a run, which are a second long unless the run is long or short.

    Returns:
        Their edges, in seconds from the first request [n + 1]; output tokens per second [n]; requests under way, on
        average [n]. A chunk of several tokens counts as its share of the answer's.
    """
    start_s = min(record.started_s for record in records)
    duration_s = max(record.ended_s for record in records) - start_s
    width_s = max(duration_s / _MAX_SECONDS, min(1.0, duration_s / 10), 1e-3)
    edges = np.arange(int(np.ceil(duration_s / width_s)) + 1) * width_s
    edges = np.append(edges, width_s) if len(edges) == 1 else edges
    tokens = np.zeros(len(edges) - 1)
    busy_s = np.zeros(len(edges) - 1)
    for record in records:
        times = np.array(record.chunk_times_s) - start_s
        share = record.num_output_tokens / max(1, len(times))
        places = np.minimum((times / width_s).astype(int), len(tokens) - 1)
        np.add.at(tokens, places, share)
        first, last = record.started_s - start_s, record.ended_s - start_s
        busy_s += np.clip(np.minimum(edges[1:], last) - np.maximum(edges[:-1], first), 0, None)
    return edges.astype(np.float64), tokens / width_s, busy_s / width_s
