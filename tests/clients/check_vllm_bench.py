"""`vllm bench serve` as a load client: a few requests, all of which must end well."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

NUM_PROMPTS = 8
OUTPUT_LEN = 16

for backend, endpoint in (("openai", "/v1/completions"), ("openai-chat", "/v1/chat/completions")):
    with tempfile.TemporaryDirectory() as directory:
        command = [
            Path(sys.executable).parent / "vllm", "bench", "serve",
            "--backend", backend, "--endpoint", endpoint,
            "--base-url", os.environ["OPENAI_BASE_URL"].removesuffix("/v1"),
            "--model", os.environ["MODEL"], "--tokenizer", os.environ["TOKENIZER"],
            "--dataset-name", "random", "--random-input-len", "32", "--random-output-len", str(OUTPUT_LEN),
            "--num-prompts", str(NUM_PROMPTS), "--max-concurrency", "4", "--ignore-eos", "--seed", "1",
            "--save-result", "--result-dir", directory, "--result-filename", "result.json", "--disable-tqdm",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        result = json.loads((Path(directory) / "result.json").read_text())
    assert result["completed"] == NUM_PROMPTS, result
    assert not result.get("failed"), result
    assert result["total_output_tokens"] == NUM_PROMPTS * OUTPUT_LEN, result
