"""The whole comparison: servers that it starts, on this machine, and one that runs already."""

import json
import sys
from pathlib import Path

import psutil
import pytest

from gateway.tokenizers.tokenizer import Tokenizer
from loadtest.compare import run
from loadtest.comparison_settings import ComparisonSettings
from loadtest.huggingface_export import huggingface_directory
from loadtest.peers import commands
from loadtest.server import ServerCommand, ServerStartError, running
from loadtest.tokenizer_source import load_tokenizer
from pagestream.cli import main
from shared.checkpoint import Checkpoint, resolve
from shared.errors import ConfigurationError
from shared.model_config import ModelConfig

FEW = {"num_prompts": 2, "input_len": 8, "output_len": 4, "max_concurrency": (1, 2)}

pytestmark = pytest.mark.model


@pytest.fixture
def own_cache(tmp_path: Path, demo: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds the demo model and nothing else."""
    (tmp_path / demo.path.name).symlink_to(demo.path)
    monkeypatch.setenv("PAGESTREAM_CACHE", str(tmp_path))
    return tmp_path


def test_servers_are_started_measured_and_ended_one_after_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ComparisonSettings(
        model="demo",
        transformers=True,
        repeats=2,
        save_result=True,
        result_dir=tmp_path,
        result_filename="result.json",
        **FEW,
    )
    assert run(settings) == 0

    printed = capsys.readouterr()
    result = json.loads((tmp_path / "result.json").read_text())
    assert printed.out.splitlines()[3].split() == ["pagestream", "transformers"]
    assert [server["name"] for server in result["servers"]] == ["pagestream", "transformers"]
    for server in result["servers"]:
        assert [load["max_concurrency"] for load in server["loads"]] == [1, 2]
        for measured in (each for load in server["loads"] for each in load["runs"]):
            assert (measured["completed"], measured["total_output_tokens"]) == (2, 8)
            assert measured["total_input_tokens"] == 16
    assert result["faults"] == []
    assert result["servers"][0]["command"][3:] == [
        *("serve", "demo", "--max-model-len", "2048", "--max-num-seqs", "64", "--no-enable-prefix-caching")
    ]
    family = psutil.Process().children(recursive=True)
    assert not [child for child in family if "transformers_server" in " ".join(child.cmdline())]
    assert printed.err.index("pagestream: 2 at once, run 2 of 2") < printed.err.index("transformers: starting")


def test_a_server_that_runs_already_is_measured_by_its_address(capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--num-prompts", "2", "--input-len", "8", "--output-len", "4", "--repeats", "1")
    fake = (sys.executable, "-m", "pagestream", "serve", "demo", "--runner", "fake")
    with running(ServerCommand(name="other", command=fake)) as url:
        flags = ("--serve-args", "--runner fake", "--url", f"other={url}", "--request-rate", "50", "100", *few)
        status = main(["bench", "compare", "demo", *flags])

    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert printed.out.splitlines()[3].split() == ["pagestream", "other"]
    assert "100 a second" in printed.out


def test_a_server_that_does_not_come_up_ends_it_with_the_end_of_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "compare", "demo", "--serve-args", "--runner fake --kv-cache-memory-bytes 1K"]) == 1

    printed = capsys.readouterr().err
    assert "holds 0 blocks" in printed
    last_line = printed.splitlines()[-1]
    assert last_line.startswith("pagestream: error: pagestream did not come up: it ended with status 1")
    assert "bench-pagestream.log" in last_line


def test_a_server_that_never_gets_healthy_is_ended(own_cache: Path) -> None:
    sleeper = (sys.executable, "-c", "import sys, time; print('asleep', flush=True); time.sleep(600)")
    with (
        pytest.raises(ServerStartError, match="sleeper did not come up: it was not healthy after") as raised,
        running(ServerCommand(name="sleeper", command=sleeper, start_timeout_s=1.0)),
    ):
        pass

    assert raised.value.log_end == "asleep"
    assert not [child for child in psutil.Process().children() if "asleep" in " ".join(child.cmdline())]


def test_what_a_server_started_ends_with_it(own_cache: Path) -> None:
    program = (
        "import http.server, os, subprocess, sys\n"
        "class Healthy(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[-1])), Healthy).serve_forever()\n"
    )
    with running(ServerCommand(name="parent", command=(sys.executable, "-c", program))):
        child = psutil.Process(int((own_cache / "logs" / "bench-parent.log").read_text().splitlines()[0]))
        assert child.is_running()

    child.wait(5)


def test_vllm_is_given_the_models_export_and_what_its_cpu_build_needs(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "5")
    monkeypatch.setenv("PYTHONPATH", "/ours")
    environment = tmp_path / "environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "vllm").touch()
    (environment / "lib").mkdir()
    (environment / "lib" / "libiomp5.so").touch()
    vllm = commands(ComparisonSettings(model="demo", vllm=environment, vllm_args=("--seed", "1")))[1]

    assert vllm.command[:2] == (str(environment / "bin" / "vllm"), "serve")
    assert vllm.command[3:] == (
        *("--served-model-name", "demo", "--host", "127.0.0.1", "--max-model-len", "2048", "--max-num-seqs", "64"),
        *("--dtype", "float32", "--no-enable-prefix-caching", "--seed", "1"),
    )
    assert vllm.environment is not None
    assert vllm.environment["LD_PRELOAD"] == str(environment / "lib" / "libiomp5.so")
    assert vllm.environment["VLLM_CPU_KVCACHE_SPACE"] == "5"
    assert vllm.environment["HF_HUB_OFFLINE"] == "1"
    assert "PYTHONPATH" not in vllm.environment
    _assert_is_the_same_model(Path(vllm.command[2]))
    # The second time it is there already.
    before = Path(vllm.command[2]).stat().st_mtime_ns
    assert huggingface_directory(resolve("demo")).stat().st_mtime_ns == before


def _assert_is_the_same_model(directory: Path) -> None:
    demo, export = resolve("demo"), resolve(str(directory))
    config, exported = ModelConfig.from_checkpoint(demo), ModelConfig.from_checkpoint(export)
    assert (exported.hidden_size, exported.num_hidden_layers) == (config.hidden_size, config.num_hidden_layers)
    assert (exported.rope_theta, exported.rms_norm_eps) == (config.rope_theta, pytest.approx(config.rms_norm_eps))
    assert exported.dtype == "float32"
    ours: Tokenizer = load_tokenizer("demo")
    theirs = load_tokenizer(str(directory))
    text = "Hello, wörld! 1234 <|im_start|>user\n你好"
    assert theirs.encode(text) == ours.encode(text)
    assert theirs.eos_token_ids[0] in ours.eos_token_ids
    chat = [{"role": "user", "content": "Hi"}]
    assert theirs.render_chat(chat) == ours.render_chat(chat)


def test_an_environment_without_vllm_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"--vllm {tmp_path} has no bin/vllm; name a virtual environment"):
        run(ComparisonSettings(model="demo", vllm=tmp_path))
