"""`pagestream chaos`: runs scenarios on real processes, and says what came of it."""

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import uvloop

from loadtest.chaos.chaos_run import ChaosRun
from loadtest.chaos.report import ChaosResult, as_json, as_text
from loadtest.chaos.scenario import Scenario
from loadtest.chaos.settings import ChaosSettings
from loadtest.result_file import ResultFile
from shared.demo_model import cache_directory
from shared.errors import ConfigurationError


def run(settings: ChaosSettings) -> int:
    """Run all scenarios, print and keep their results; 1 if anything was violated.

    Raises:
        ConfigurationError: a scenario cannot be used, or something cannot be started or written.
    """
    scenarios = {name: _adjusted(Scenario.load(name), settings) for name in settings.scenario}
    file = _result_file(settings)
    results = []
    for name, scenario in scenarios.items():
        result = run_scenario(name, scenario, _log_directory(name), is_shown=not settings.disable_tqdm)
        print(as_text(result))
        results.append(result)
    if file is not None:
        file.write({"scenarios": [as_json(result) for result in results]})
        print(f"Result written to {file.path}")
    return int(any(result.violations for result in results))


def run_scenario(name: str, scenario: Scenario, logs: Path, *, is_shown: bool = False) -> ChaosResult:
    """Start a pool, load it, break it, and look at what came of it.

    Args:
        name: Of the scenario.
        scenario: What to do.
        logs: An empty directory, for what the services log.
        is_shown: Whether to draw how it goes.

    Raises:
        ConfigurationError: there is no Redis.
        ServiceUnavailableError: the pool does not even start.
    """
    return uvloop.run(ChaosRun(name, scenario, logs, is_shown=is_shown).run())


def _adjusted(scenario: Scenario, settings: ChaosSettings) -> Scenario:
    changes = {"seed": settings.seed, "num_faults": settings.num_faults}
    return msgspec.structs.replace(scenario, **{key: value for key, value in changes.items() if value is not None})


def _result_file(settings: ChaosSettings) -> ResultFile | None:
    if not settings.save_result:
        return None
    date = datetime.now(UTC).astimezone().strftime("%Y%m%d-%H%M%S")
    path = (settings.result_dir or Path()) / (settings.result_filename or f"chaos-{date}.json")
    file = ResultFile(path, is_appended=False)
    file.prepare()
    return file


def _log_directory(name: str) -> Path:
    directory = cache_directory() / "logs" / f"chaos-{Path(name).stem}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for log in directory.glob("*.log"):
            log.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"cannot write logs in {directory}: {error.strerror}; set PAGESTREAM_CACHE to a directory you may write"
        ) from error
    return directory
