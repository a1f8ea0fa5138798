"""Other people's clients against a local stack with the demo model, each in an environment of its own.

    python -m tests.clients.run [NAME ...]

Environments are made once, in the cache folder, with the versions in `requirements/`. Every check is a program that
ends with 0 if all was as it should be. vLLM is too large to be installed for this: name an environment that holds it.
"""

import os
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

from loadtest.huggingface_export import huggingface_directory
from shared.checkpoint import resolve
from shared.demo_model import cache_directory
from tests.system.processes import Services

HERE = Path(__file__).parent
WORKER = ("--max-model-len", "1024", "--kv-cache-memory-bytes", "512M")
CHECK_TIMEOUT_S = 900


@dataclass(frozen=True)
class Client:
    """One client.

    Attributes:
        check: The program, beside this file.
        given_by: The environment variable that names a ready environment; empty if one is made here.
    """

    name: str
    check: str
    given_by: str = ""

    @property
    def requirements(self) -> Path:
        """What it is installed from; none of it brings torch unless it is pinned there."""
        return HERE / "requirements" / f"{self.name}.txt"

    @property
    def is_missing(self) -> bool:
        """Whether nobody has named the environment that it needs."""
        return bool(self.given_by) and not os.environ.get(self.given_by)


CLIENTS = (
    Client("openai", "check_openai.py"),
    Client("openai-node", "check_openai.mjs"),
    Client("langchain", "check_langchain.py"),
    Client("litellm", "check_litellm.py"),
    Client("instructor", "check_instructor.py"),
    Client("llama-index", "check_llama_index.py"),
    Client("lm-eval", "check_lm_eval.py"),
    Client("guidellm", "check_guidellm.py"),
    Client("vllm-bench", "check_vllm_bench.py", given_by="VLLM"),
)


def command_of(client: Client) -> list[str]:
    """The check as a command, its client installed."""
    check = HERE / client.check
    if client.given_by:
        return [str(Path(os.environ[client.given_by]) / "bin" / "python"), str(check)]
    home = cache_directory() / "clients" / client.name
    if check.suffix == ".mjs":
        install(client, home, ["npm", "install", "--silent", "--prefix", str(home)])
        script = home / check.name  # node looks for packages beside the program
        script.write_text(check.read_text())
        return ["node", str(script)]
    python = home / "bin" / "python"
    install(client, home, [str(python), "-m", "pip", "install", "--quiet"])
    return [str(python), str(check)]


def install(client: Client, home: Path, command: list[str]) -> None:
    """Make its environment, unless it is there as it is wanted now."""
    wanted, done = client.requirements.read_text(), home / ".installed"
    if done.exists() and done.read_text() == wanted:
        return
    if command[0] == "npm":
        home.mkdir(parents=True, exist_ok=True)
    else:
        venv.create(home, with_pip=True, clear=True)
    subprocess.run([*command, *wanted.split()], check=True)
    done.write_text(wanted)


def run(client: Client, base_url: str) -> bool:
    """Install and check one client."""
    environment = os.environ | {"OPENAI_BASE_URL": f"{base_url}/v1", "OPENAI_API_KEY": "none", "MODEL": "demo"}
    environment |= {"TOKENIZER": str(huggingface_directory(resolve("demo"))), "HF_HUB_OFFLINE": "1"}
    command = command_of(client)
    return subprocess.run(command, env=environment, timeout=CHECK_TIMEOUT_S, check=False).returncode == 0


def main(names: list[str]) -> int:
    """Check the named clients, or all; returns the exit status."""
    known = {client.name: client for client in CLIENTS}
    if unknown := set(names) - known.keys():
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        return 2
    chosen = [known[name] for name in names] or list(CLIENTS)
    skipped = [client for client in chosen if client.is_missing]
    failed = []
    with tempfile.TemporaryDirectory() as directory, Services(Path(directory)) as services:
        services.start_all(worker_flags=WORKER)
        for client in chosen:
            if client in skipped:
                print(f"== {client.name} is left out: set {client.given_by}=<an environment that holds it>")
                continue
            print(f"== {client.name}", flush=True)
            started_s = time.monotonic()
            is_well = run(client, services.base_url)
            print(f"== {client.name} {'passed' if is_well else 'failed'} in {time.monotonic() - started_s:.0f} s")
            if not is_well:
                failed.append(client.name)
                print(services.logs())
        services.assert_nothing_is_left()
    num_passed = len(chosen) - len(failed) - len(skipped)
    print(f"{num_passed} passed, {len(failed)} failed, {len(skipped)} skipped" + "".join(f"; {n}" for n in failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
