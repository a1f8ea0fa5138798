import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import typer

from loadtest.comparison_settings import ComparisonSettings
from loadtest.kernel_settings import KernelSettings
from loadtest.settings import BenchSettings, Dataset, Reporting, Sampling, Target, Traffic
from pagestream.bench import app, repeat_list_flags
from pagestream.cli import main

PARTS = (Target, Traffic, Dataset, Sampling, Reporting)


def _parse(*arguments: str, command: str = "serve") -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands[command].make_context(command, list(arguments)).params)


def test_every_setting_has_a_flag_of_its_name_and_no_other_has() -> None:
    names = [field.name for part in PARTS for field in dataclasses.fields(part)]

    assert len(names) == len(set(names))
    assert set(names) == _parse().keys()


def test_defaults_are_those_of_the_settings() -> None:
    assert BenchSettings.pick(_parse()) == BenchSettings(
        target=Target(), traffic=Traffic(), dataset=Dataset(), sampling=Sampling(), reporting=Reporting()
    )


def test_a_command_line_of_vllm_is_understood() -> None:
    settings = BenchSettings.pick(
        _parse(
            *("--backend", "vllm", "--base-url", "http://host:1/", "--model", "smol", "--header", "a=1", "b=2=3"),
            *("--dataset-name", "sharegpt", "--dataset-path", "file.json", "--num-prompts", "1k"),
            *("--request-rate", "2.5", "--burstiness", "inf", "--max-concurrency", "8", "--ignore-eos"),
            *(
                "--percentile-metrics",
                "ttft,e2el",
                "--metric-percentiles",
                "50,99.9",
                "--goodput",
                "ttft:500",
                "tpot:9.5",
            ),
            *("--save-result", "--metadata", "version=1", "tp=2", "--extra-body", '{"min_p": 0.1}', "--top-k", "5"),
        )
    )

    assert settings.target.root_url + settings.target.path == "http://host:1/v1/completions"
    assert settings.target.header == {"a": "1", "b": "2=3"}
    assert settings.dataset.dataset_path == Path("file.json")
    assert (settings.traffic.num_prompts, settings.traffic.request_rate) == (1000, 2.5)
    assert settings.traffic.burstiness == math.inf
    assert settings.sampling.body(ignore_eos=settings.ignore_eos) == {"top_k": 5, "ignore_eos": True, "min_p": 0.1}
    assert settings.reporting.percentile_metrics == ("ttft", "e2el")
    assert settings.reporting.metric_percentiles == (50.0, 99.9)
    assert settings.reporting.goodput == {"ttft": 500.0, "tpot": 9.5}
    assert settings.reporting.metadata == {"version": "1", "tp": "2"}


def test_every_setting_of_a_comparison_has_a_flag_of_its_name_and_no_other_has() -> None:
    assert {field.name for field in dataclasses.fields(ComparisonSettings)} == _parse(command="compare").keys()


def test_a_comparison_takes_several_loads_and_addresses() -> None:
    parsed = _parse(
        *("tiny.gguf", "--max-concurrency", "1", "8", "1k", "--repeats", "2", "--url", "a=http://h:1", "b=https://h"),
        *("--vllm", "env", "--transformers", "--serve-args", "--kv-cache-dtype fp16 --served-model-name 'a b'"),
        command="compare",
    )

    assert (parsed["model"], parsed["vllm"], parsed["transformers"]) == ("tiny.gguf", Path("env"), True)
    assert (parsed["max_concurrency"], parsed["repeats"]) == ([1, 8, 1000], 2)
    assert parsed["url"] == {"a": "http://h:1", "b": "https://h"}
    assert parsed["serve_args"] == ("--kv-cache-dtype", "fp16", "--served-model-name", "a b")


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--max-concurrency", "0"),
        ("--request-rate", "-1"),
        ("--url", "vllm"),
        ("--url", "vllm=localhost:8000"),
        ("--serve-args", "'"),
        ("--repeats", "0"),
    ],
)
def test_a_wrong_value_of_a_comparison_is_one_line_that_names_its_flag(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "compare", "demo", flag, value]) == 2

    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"'{flag}'" in printed


def test_only_random_prompts_run_to_their_full_length_unasked() -> None:
    assert BenchSettings.pick(_parse()).ignore_eos
    assert not BenchSettings.pick(_parse("--dataset-name", "multiturn")).ignore_eos


def test_list_flags_are_repeated_and_others_left_alone() -> None:
    arguments = ["--goodput", "a:1", "b:2", "--seed", "-1", "--header", "--metadata", "x=1"]

    assert repeat_list_flags(arguments) == [
        *("--goodput", "a:1", "--goodput", "b:2", "--seed", "-1", "--header", "--metadata", "x=1")
    ]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--num-prompts", "0"),
        ("--request-rate", "0"),
        ("--request-rate", "fast"),
        ("--request-rate", "nan"),
        ("--burstiness", "-1"),
        ("--max-concurrency", "0"),
        ("--random-range-ratio", "1.5"),
        ("--dataset-name", "sonnet"),
        ("--percentile-metrics", "ttft,speed"),
        ("--metric-percentiles", "50,101"),
        ("--metric-percentiles", "most"),
        ("--goodput", "itl:5"),
        ("--goodput", "ttft:-5"),
        ("--metadata", "version"),
        ("--header", "=1"),
        ("--header", "a=1\r\nb: 2"),
        ("--extra-body", "[1]"),
        ("--extra-body", "{"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_flag(
    flag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "serve", flag, value]) == 2

    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert f"'{flag}'" in printed


def test_a_server_that_is_not_there_is_one_line_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", "--base-url", "http://127.0.0.1:1"]) == 1

    printed = capsys.readouterr().err
    assert printed.startswith("pagestream: error: the server does not name its models: ")
    assert "--base-url" in printed


def test_every_setting_of_the_kernels_has_a_flag_of_its_name_with_its_default() -> None:
    assert KernelSettings(**_parse(command="kernels")) == KernelSettings(model="demo")


def test_a_model_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", "no/such/file.gguf"]) == 1

    assert capsys.readouterr().err.count("\n") == 1
