"""guidellm as a load client: a few requests, all of which must end well."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as directory:
    command = [
        Path(sys.executable).parent / "guidellm", "benchmark", "run",
        "--target", os.environ["OPENAI_BASE_URL"].removesuffix("/v1"),
        "--model", os.environ["MODEL"],
        "--data", json.dumps({"prompt_tokens": 32, "output_tokens": 16}),
        "--processor", os.environ["TOKENIZER"],
        "--rate-type", "synchronous", "--max-requests", "8", "--output-dir", directory, "--outputs", "json",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    (report,) = Path(directory).glob("*.json")
    benchmark = json.loads(report.read_text())["benchmarks"][0]
    totals = benchmark["metrics"]["request_totals"]
    assert totals["successful"] >= 8, totals
    assert not totals["errored"], totals
