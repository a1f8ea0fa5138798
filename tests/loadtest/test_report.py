import dataclasses
import json
from pathlib import Path

import msgspec
import pytest

from loadtest.measurement import measure
from loadtest.report import as_json, as_text
from loadtest.result_file import ResultFile
from loadtest.settings import BenchSettings, Dataset, Reporting, Sampling, Target, Traffic
from shared.errors import ConfigurationError
from tests.loadtest.test_measurement import FAILED, QUICK, SLOW

MEASUREMENT = measure([SLOW, QUICK, FAILED], 2.0, percentiles=[50, 99.9], slo_ms={"ttft": 200})

TEXT = """\
============ Serving Benchmark Result ============
Successful requests:                     2
Failed requests:                         1
Maximum request concurrency:             8
Request rate configured (RPS):           1.50
Benchmark duration (s):                  2.00
Total input tokens:                      14
Total generated tokens:                  4
Request throughput (req/s):              1.00
Request goodput (req/s):                 0.50
Output token throughput (tok/s):         2.00
Peak output token throughput (tok/s):    4.00
Peak concurrent requests:                2.00
Total token throughput (tok/s):          9.00
---------------Time to First Token----------------
Mean TTFT (ms):                          300.00
Median TTFT (ms):                        300.00
P50 TTFT (ms):                           300.00
P99.9 TTFT (ms):                         499.60
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          200.00
Median TPOT (ms):                        200.00
P50 TPOT (ms):                           200.00
P99.9 TPOT (ms):                         200.00
---------------Inter-token Latency----------------
Mean ITL (ms):                           200.00
Median ITL (ms):                         200.00
P50 ITL (ms):                            200.00
P99.9 ITL (ms):                          299.80
----------------End-to-end Latency----------------
Mean E2EL (ms):                          500.00
Median E2EL (ms):                        500.00
P50 E2EL (ms):                           500.00
P99.9 E2EL (ms):                         899.20
=================================================="""

KEYS = {
    *("date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate"),
    *("burstiness", "max_concurrency", "duration", "completed", "failed", "total_input_tokens", "total_output_tokens"),
    *("request_throughput", "request_goodput", "output_throughput", "total_token_throughput"),
    *("max_output_tokens_per_s", "max_concurrent_requests", "version"),
    *(
        f"{statistic}_{metric}_ms"
        for metric in ("ttft", "tpot", "itl", "e2el", "client_queue_time")
        for statistic in ("mean", "median", "std", "p50", "p99.9")
    ),
}
DETAILS = {"input_lens", "output_lens", "ttfts", "itls", "start_times", "queue_times", "generated_texts", "errors"}


def bench_settings(**reporting: object) -> BenchSettings:
    return BenchSettings(
        target=Target(tokenizer="demo"),
        traffic=Traffic(num_prompts=3, request_rate=1.5, max_concurrency=8),
        dataset=Dataset(),
        sampling=Sampling(),
        reporting=Reporting(metadata={"version": "1"}, **reporting),
    )


def test_the_table_has_the_words_of_vllm() -> None:
    text = as_text(MEASUREMENT, bench_settings().traffic, ["ttft", "tpot", "itl", "e2el"])

    assert [line.rstrip() for line in text.splitlines()] == TEXT.splitlines()


def test_lines_that_say_nothing_are_left_out() -> None:
    unbounded = dataclasses.replace(MEASUREMENT, request_goodput=None)
    text = as_text(unbounded, Traffic(), [])

    assert not {"Maximum request concurrency", "Request rate", "goodput", "TTFT"} & set(text.split(":"))
    assert "goodput" not in text
    assert "configured" not in text


def test_the_document_has_the_keys_of_vllm() -> None:
    records = [SLOW, QUICK, FAILED]
    document = as_json(MEASUREMENT, records, bench_settings(), model="m", date="d")
    detailed = as_json(MEASUREMENT, records, bench_settings(save_detailed=True), model="m", date="d")

    assert document.keys() == KEYS
    assert detailed.keys() == KEYS | DETAILS
    assert (document["request_rate"], document["version"], document["request_goodput"]) == (1.5, "1", 0.5)
    assert detailed["errors"] == ["", "", "HTTP 500"]
    assert detailed["output_lens"] == [3, 1, 0]


def test_an_infinite_rate_is_valid_json() -> None:
    settings = dataclasses.replace(bench_settings(), traffic=Traffic())
    document = as_json(MEASUREMENT, [], settings, model="m", date="d")

    assert json.loads(msgspec.json.encode(document))["request_rate"] == "inf"


def test_no_file_unless_asked_for() -> None:
    assert ResultFile.of(bench_settings(), model="m", date="d") is None


def test_a_file_is_named_by_what_was_run(tmp_path: Path) -> None:
    file = ResultFile.of(bench_settings(save_result=True, result_dir=tmp_path), model="org/m", date="d")

    assert file is not None
    assert file.path == tmp_path / "openai-1.5qps-concurrency8-m-d.json"


def test_a_result_replaces_what_was_there_or_becomes_one_more_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    for is_appended, expected in [(False, 1), (True, 2), (True, 3), (False, 1)]:
        file = ResultFile(path, is_appended=is_appended)
        file.prepare()
        file.write({"a": 1})
        assert [json.loads(line) for line in path.read_text().splitlines()] == [{"a": 1}] * expected


def test_a_place_that_cannot_be_written_is_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigurationError, match="--result-dir"):
        ResultFile(tmp_path / "file" / "result.json", is_appended=False).prepare()
