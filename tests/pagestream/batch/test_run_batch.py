"""`pagestream run-batch`, on a fake runner and on the demo model."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pagestream import LLM, PoolingParams, SamplingParams
from pagestream.cli import main

pytestmark = pytest.mark.model

CHAT = [{"role": "user", "content": "Name three colours."}]
GREEDY = {"model": "demo", "max_tokens": 12, "temperature": 0}


def line(custom_id: str, url: str, body: Mapping[str, Any], **others: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": f"/v1/{url}", "body": body} | others)


def run(directory: Path, lines: list[str], *flags: str) -> tuple[int, dict[str | None, dict[str, Any]]]:
    source, target = directory / "in.jsonl", directory / "out.jsonl"
    source.write_text("\n".join(lines))
    status = main(["run-batch", "-i", str(source), "-o", str(target), "--num-threads", "1", *flags])
    results = [json.loads(text) for text in target.read_text().splitlines()]
    return status, {result["custom_id"]: result for result in results}


def test_each_line_is_answered_as_a_server_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["1, 2, 3, 4,", "The sea was"]
    status, results = run(
        tmp_path,
        [
            line("chat", "chat/completions", {**GREEDY, "messages": CHAT}),
            line("texts", "completions", {**GREEDY, "prompt": prompts, "return_token_ids": True}),
            "",
            line("vector", "embeddings", {"model": "demo", "input": "x", "dimensions": 8}),
            line("odd", "completions", {**GREEDY, "prompt": "x", "temperature": -1}),
            line("other model", "completions", {**GREEDY, "model": "gpt", "prompt": "x"}),
            line("stream", "completions", {**GREEDY, "prompt": "x", "stream": True}),
            "no JSON",
            line("chat", "completions", {**GREEDY, "prompt": "again"}),
            line("elsewhere", "files", {}),
        ],
        *("--model", "demo", "--max-model-len", "512", "--kv-cache-memory-bytes", "100M"),
    )
    assert status == 0
    assert "3 answered, 6 failed" in capsys.readouterr().err.replace("\n", " ")
    codes = {name: result["response"] and result["response"]["status_code"] for name, result in results.items()}
    assert codes.pop(None) is codes.pop("elsewhere") is None
    assert codes == {"chat": 200, "texts": 200, "vector": 200, "odd": 400, "other model": 404, "stream": 400}
    assert results["odd"]["response"]["body"]["error"]["param"] == "temperature"
    assert results[None]["error"] == {
        "code": "invalid_json_line",
        "message": "line 7: This line is not parseable as valid JSON.",
    }
    assert results["elsewhere"]["error"]["code"] == "invalid_url"

    llm = LLM("demo", max_model_len=512, kv_cache_memory_bytes=100 << 20, num_threads=1)
    sampling = SamplingParams(temperature=0, max_tokens=12)
    texts = [choice["text"] for choice in results["texts"]["response"]["body"]["choices"]]
    assert texts == [output.outputs[0].text for output in llm.generate(prompts, sampling, use_tqdm=False)]
    answer = results["chat"]["response"]["body"]["choices"][0]["message"]["content"]
    vector = results["vector"]["response"]["body"]["data"][0]["embedding"]
    assert vector == llm.embed("x", PoolingParams(dimensions=8), use_tqdm=False)[0].outputs.embedding
    assert answer == llm.chat(CHAT, sampling, use_tqdm=False)[0].outputs[0].text


def test_many_lines_are_answered_at_once(tmp_path: Path) -> None:
    lines = [
        line(f"r{i}", "completions", {"model": "demo", "prompt": "x", "max_tokens": 1 + i % 9}) for i in range(500)
    ]
    status, results = run(tmp_path, lines, "--runner", "fake", "--max-num-seqs", "32")
    assert status == 0
    used = [results[f"r{i}"]["response"]["body"]["usage"]["completion_tokens"] for i in range(500)]
    assert used == [1 + i % 9 for i in range(500)]


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    body = {"model": "demo", "prompt": "x", "ignore_eos": True}
    source.write_text("\n".join(line(f"r{i}", "completions", {**body, "max_tokens": 60 + i}) for i in range(400)))
    command = [sys.executable, "-m", "pagestream", "run-batch", "-i", str(source), "-o", str(target)]
    with subprocess.Popen([*command, "--runner", "timed"], stderr=subprocess.PIPE, text=True) as running:
        deadline = time.monotonic() + 60
        while not target.exists() or target.read_bytes().count(b"\n") < 5:
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=30)
    assert running.returncode == 130, told
    results = [json.loads(text) for text in target.read_text().splitlines()]
    assert 5 <= len(results) < 400
    assert {result["response"]["status_code"] for result in results} == {200}
    assert f"{len(results)} answered, 0 failed: {target}" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        ("missing.jsonl", "out.jsonl", "cannot use .*missing.jsonl: No such file or directory; check the path"),
        ("in.jsonl", "missing/out.jsonl", "cannot use .*missing/out.jsonl: No such file or directory"),
        ("in.jsonl", "in.jsonl", "--output-file .*in.jsonl is the input; name another file"),
    ],
)
def test_files_are_looked_at_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, target: str, reason: str
) -> None:
    (tmp_path / "in.jsonl").write_text(line("a", "completions", {}))
    flags = ("-i", str(tmp_path / source), "-o", str(tmp_path / target), "--model", "/nowhere")
    assert main(["run-batch", *flags]) == 1
    assert re.search(reason, capsys.readouterr().err)
