"""`pagestream bench compare`: serves one model by several servers, one after another, and measures each alike."""

import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from loadtest.bench import measure_server
from loadtest.comparison import FIGURES, Run, ServerRuns, as_document, as_table
from loadtest.comparison_settings import ComparisonSettings, Load
from loadtest.peers import commands
from loadtest.result_file import ResultFile
from loadtest.server import ServerStartError, running

_PROCESSOR_FILE = Path("/proc/cpuinfo")


def run(settings: ComparisonSettings) -> int:
    """Measure, print and keep the result; 1 if requests failed, or answers were cut short.

    Raises:
        ConfigurationError: a setting is wrong, or a server is not there or does not come up.
    """
    date = datetime.now(UTC).astimezone().strftime("%Y%m%d-%H%M%S")
    file = _result_file(settings, date)
    started = commands(settings)
    servers = []
    for command in started:
        _say(f"{command.name}: starting")
        since_s = time.monotonic()
        try:
            with running(command) as url:
                _say(f"{command.name}: serves after {time.monotonic() - since_s:.0f} s")
                servers.append(_measure(settings, command.name, command.command, url, model=settings.model))
        except ServerStartError as error:
            print(error.log_end, file=sys.stderr)
            raise
    servers += [_measure(settings, name, (url,), url, model=None) for name, url in settings.url.items()]
    _print(settings, servers)
    faults = [fault for server in servers for fault in server.faults(settings.output_len)]
    for fault in faults:
        _say(fault)
    if file is not None:
        file.write(_document(settings, servers, date=date) | {"faults": faults})
        _say(f"Result written to {file.path}")
    return int(bool(faults))


def _measure(
    settings: ComparisonSettings, name: str, command: tuple[str, ...], url: str, *, model: str | None
) -> ServerRuns:
    """Warm a server up with each load once, then measure: each load in turn, as often as asked for."""
    loads = settings.loads
    _say(f"{name}: warming up")
    for number, load in enumerate(loads):
        measure_server(settings.of_run(load.for_warmup, number, url=url, model=model))
    runs: dict[Load, list[Run]] = {load: [] for load in loads}
    for repeat in range(settings.repeats):
        for number, load in enumerate(loads):
            load_average = os.getloadavg()[0]
            # No prompt comes twice, so that no cache of prefixes helps a server that has one.
            seen = (1 + repeat) * len(loads) + number
            _, measurement = measure_server(settings.of_run(load, seen, url=url, model=model))
            runs[load].append(Run(measurement, load_average))
            speed = FIGURES[0].of(measurement)
            _say(f"{name}: {load}, run {repeat + 1} of {settings.repeats}: {speed:.1f} {FIGURES[0].title}")
    return ServerRuns(name, command, runs)


def _print(settings: ComparisonSettings, servers: list[ServerRuns]) -> None:
    how_often = "one run each" if settings.repeats == 1 else f"median of {settings.repeats} runs (least to most)"
    print(f"{settings.model}, {settings.input_len} tokens in, {settings.output_len} out, greedy; {how_often}")
    if len(servers) > 1:
        print(f"xN: by the medians, {servers[0].name} is N times better; below 1, it is worse")
    print()
    print(as_table(servers, settings.loads))


def _result_file(settings: ComparisonSettings, date: str) -> ResultFile | None:
    if not settings.save_result:
        return None
    name = settings.result_filename or f"compare-{Path(settings.model).name}-{date}.json"
    file = ResultFile((settings.result_dir or Path()) / name, is_appended=False)
    file.prepare()
    return file


def _document(settings: ComparisonSettings, servers: list[ServerRuns], *, date: str) -> dict[str, object]:
    return {
        "date": date,
        "model_id": settings.model,
        "machine": {
            "processor": _processor(),
            "num_processors": len(os.sched_getaffinity(0)),
            "system": platform.platform(),
        },
        "input_len": settings.input_len,
        "output_len": settings.output_len,
        "repeats": settings.repeats,
        "seed": settings.seed,
        **as_document(servers, settings.loads),
    }


def _processor() -> str:
    """Its name where the system tells it, else its kind."""
    lines = _PROCESSOR_FILE.read_text().splitlines() if _PROCESSOR_FILE.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
