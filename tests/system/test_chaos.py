"""Chaos on real processes, a little of it; `make chaos` and `make soak` have the rest."""

from pathlib import Path

import msgspec

from loadtest.chaos.report import as_text
from loadtest.chaos.run import run_scenario
from loadtest.chaos.scenario import Scenario

_SERVICES = ("worker", "scheduler", "gateway")


def test_no_token_is_lost_doubled_or_wrong_whatever_fails(tmp_path: Path) -> None:
    scenario = msgspec.structs.replace(
        Scenario.load("all"), workers=2, streams=24, max_tokens=(16, 160), num_faults=7, hold_s=(0.3, 1.5), seed=76,
        max_stall_p99_s=None,
    )  # fmt: skip
    result = run_scenario("tested", scenario, tmp_path)
    print(as_text(result))

    assert result.violations == []
    assert result.verdict.num_answers > scenario.streams


def test_a_rolling_restart_breaks_no_stream(tmp_path: Path) -> None:
    faults = {"drain-scheduler": 1, "drain-worker": 1, "drain-gateway": 1}
    scenario = msgspec.structs.replace(
        Scenario.load("rolling"), workers=2, gateways=1, streams=24, max_tokens=(16, 60), num_faults=3, seed=7,
        max_stall_p99_s=None,
        faults=faults,
    )  # fmt: skip
    result = run_scenario("tested-rolling", scenario, tmp_path)
    print(as_text(result))

    assert result.violations == []
    assert {fault.name for fault in result.faults} == set(faults)
    assert (result.verdict.num_broken, result.num_resumed) == (0, 0)


def test_under_load_nobody_grows(tmp_path: Path) -> None:
    scenario = msgspec.structs.replace(
        Scenario.load("soak"), duration_s=36, num_faults=8, streams=16, max_tokens=(16, 64), healthy_s=(1.0, 3.0)
    )
    # Redis keeps the last results of each worker: it grows for some minutes before it is full.
    result = run_scenario("tested-soak", msgspec.structs.replace(scenario, max_memory_growth=None), tmp_path)
    print(as_text(result))

    assert result.violations == []
    services = {name: growth for name, growth in result.memory.items() if name.startswith(_SERVICES)}
    assert len(services) == scenario.workers + scenario.schedulers + scenario.gateways
    assert {name: growth for name, growth in services.items() if growth.share > 0.02} == {}
