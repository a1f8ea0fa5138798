"""guidellm as a load client: a few requests by each API, all of which must end well."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

NUM_REQUESTS = 8

target = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")
for route in ("/v1/chat/completions", "/v1/completions"):
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [
            Path(sys.executable).parent / "guidellm", "run", "--disable-console",
            "--backend", f"kind=openai_http,target={target},model={os.environ['MODEL']},request_format={route}",
            "--tokenizer", f"kind=huggingface_auto,model={os.environ['TOKENIZER']}",
            "--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=16",
            "--profile", "kind=synchronous",
            "--constraint", f"kind=max_requests,count={NUM_REQUESTS}",
            "--output", f"kind=json,path={report}",
        ]  # fmt: skip
        subprocess.run(command, check=True)
        (benchmark,) = json.loads(report.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert totals["successful"] >= NUM_REQUESTS, totals
    assert not totals["errored"], totals
