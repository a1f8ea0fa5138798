"""What several servers' runs amount to."""

import dataclasses
import math
import re

import pytest

from loadtest.comparison import FIGURES, Run, ServerRuns, as_document, as_table, ratio
from loadtest.comparison_settings import ComparisonSettings, Load
from loadtest.measurement import Measurement, measure
from loadtest.record import RequestRecord

LOAD = Load.at_once(8, None)
THROUGHPUT, TTFT, ITL = FIGURES


def _measurement(tokens_per_s: float, *, num_tokens: int = 10, error: str | None = None) -> Measurement:
    times = tuple((i + 1) / tokens_per_s for i in range(num_tokens))
    record = RequestRecord(due_s=0.0, started_s=0.0, chunk_times_s=times, num_output_tokens=num_tokens)
    failed = [dataclasses.replace(record, error=error)] if error else []
    return measure([record, *failed], times[-1], percentiles=(99.0,), slo_ms={})


def _server(name: str, *speeds: float, load: Load = LOAD) -> ServerRuns:
    return ServerRuns(name, ("start", name), {load: [Run(_measurement(speed), 0.5) for speed in speeds]})


def test_a_ratio_says_how_many_times_better_we_are_whichever_way_better_is() -> None:
    ours, peer = _server("ours", 100, 50, 80), _server("peer", 40, 20, 10)

    assert ratio(ours, peer, LOAD, THROUGHPUT) == pytest.approx(4)
    assert ratio(ours, peer, LOAD, TTFT) == pytest.approx(4)
    assert ratio(ours, peer, LOAD, ITL) == pytest.approx(4)
    assert ratio(peer, ours, LOAD, ITL) == pytest.approx(0.25)


def test_a_run_without_answers_has_no_ratio() -> None:
    nothing = measure([], 1.0, percentiles=(99.0,), slo_ms={})
    dead = ServerRuns("dead", (), {LOAD: [Run(nothing, 0.0)]})

    assert ratio(_server("ours", 1), dead, LOAD, TTFT) is None
    assert as_table([_server("ours", 1), dead], [LOAD]).splitlines()[1].endswith("-")


def test_the_table_has_a_row_for_each_load_and_figure() -> None:
    table = as_table([_server("ours", 100, 50, 80), _server("peer", 40, 20, 10)], [LOAD]).splitlines()

    assert [re.split(r"  +", line.strip()) for line in table] == [
        ["ours", "peer"],
        ["8 at once", "output tokens/s", "80.0 (50.0 to 100)", "20.0 (10.0 to 40.0)", "x4.00"],
        ["median TTFT, ms", "12.5 (10.0 to 20.0)", "50.0 (25.0 to 100)", "x4.00"],
        ["median ITL, ms", "12.5 (10.0 to 20.0)", "50.0 (25.0 to 100)", "x4.00"],
    ]


def test_the_document_has_every_run_and_the_medians() -> None:
    rate = Load.at_rate(2.5, None)
    document: dict = as_document([_server("ours", 100, 50, 80, load=rate), _server("peer", 20, load=rate)], [rate])

    (load,) = document["servers"][0]["loads"]
    assert (load["request_rate"], load["max_concurrency"], load["num_prompts"]) == (2.5, None, 64)
    assert load["output_throughput"] == pytest.approx(80)
    assert [run["output_throughput"] for run in load["runs"]] == pytest.approx([100, 50, 80])
    assert document["times_better"]["peer"][0]["median_itl_ms"] == pytest.approx(4)


def test_failures_and_short_answers_are_faults() -> None:
    runs = [Run(_measurement(1), 0.0), Run(_measurement(1, num_tokens=9), 0.0), Run(_measurement(1, error="no"), 0.0)]
    server = ServerRuns("s", (), {LOAD: runs})

    assert server.faults(10) == [
        "s, 8 at once, run 2: 9 output tokens instead of 10",
        "s, 8 at once, run 3: 1 requests failed: no",
    ]


def test_each_run_has_prompts_of_its_own_and_all_servers_the_same() -> None:
    settings = ComparisonSettings(model="demo")
    one, eight, many = settings.loads

    assert [load.num_prompts for load in settings.loads] == [6, 16, 64]
    assert [load.for_warmup.num_prompts for load in settings.loads] == [1, 8, 32]
    assert one.request_rate == eight.request_rate == many.request_rate == math.inf
    first = settings.of_run(one, 3, url="http://a", model="m")
    other = settings.of_run(one, 3, url="http://b", model=None)
    assert first.traffic == other.traffic
    assert first.dataset == other.dataset
    assert first.ignore_eos
    assert settings.of_run(one, 4, url="http://a", model="m").traffic.seed != first.traffic.seed


def test_rates_take_the_place_of_concurrencies() -> None:
    settings = ComparisonSettings(model="demo", request_rate=(0.5, 2.0), num_prompts=10)

    assert [str(load) for load in settings.loads] == ["0.5 a second", "2 a second"]
    assert [load.max_concurrency for load in settings.loads] == [None, None]
    assert [load.num_prompts for load in settings.loads] == [10, 10]
