"""Other people's clients against a local stack with the demo model, each in an environment of its own.

    python -m tests.clients.run [NAME ...]

Environments are made once, in the cache folder. Every check is a program that ends with 0 if all was as it should be.
"""

import os
import subprocess
import sys
import tempfile
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
        packages: What it is installed from; none of them brings torch unless it is pinned here.
        check: The program, beside this file.
    """

    name: str
    packages: tuple[str, ...]
    check: str


CLIENTS = (
    Client("openai-node", ("openai@7",), "check_openai.mjs"),
    Client("langchain", ("langchain-openai",), "check_langchain.py"),
    Client("litellm", ("litellm",), "check_litellm.py"),
    Client("instructor", ("instructor",), "check_instructor.py"),
    Client("llama-index", ("llama-index-llms-openai-like",), "check_llama_index.py"),
    Client("lm-eval", ("lm-eval[api]", "torch==2.13.0"), "check_lm_eval.py"),
    Client("guidellm", ("guidellm", "torch==2.13.0"), "check_guidellm.py"),
)


def install_python(client: Client) -> Path:
    """The interpreter of the client's environment."""
    home = cache_directory() / "clients" / client.name
    python = home / "bin" / "python"
    done = home / ".installed"
    if not done.exists():
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *client.packages], check=True)
        done.write_text("\n".join(client.packages))
    return python


def install_node(client: Client) -> Path:
    """The folder that node finds the client in."""
    home = cache_directory() / "clients" / client.name
    if not (home / "node_modules").exists():
        home.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--silent", "--prefix", home, *client.packages], check=True)
    return home


def run(client: Client, base_url: str) -> bool:
    """Install and check one client."""
    environment = os.environ | {"OPENAI_BASE_URL": f"{base_url}/v1", "OPENAI_API_KEY": "none", "MODEL": "demo"}
    environment["TOKENIZER"] = str(huggingface_directory(resolve("demo")))
    check = HERE / client.check
    if check.suffix == ".mjs":
        home = install_node(client)
        script = home / check.name  # node looks for packages beside the program
        script.write_text(check.read_text())
        command = ["node", str(script)]
    else:
        command = [str(install_python(client)), str(check)]
    return subprocess.run(command, env=environment, timeout=CHECK_TIMEOUT_S, check=False).returncode == 0


def main(names: list[str]) -> int:
    """Check the named clients, or all; returns the exit status."""
    known = {client.name: client for client in CLIENTS}
    if unknown := set(names) - known.keys():
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        return 2
    failed = []
    chosen = [known[name] for name in names] or list(CLIENTS)
    with tempfile.TemporaryDirectory() as directory, Services(Path(directory)) as services:
        services.start_all(worker_flags=WORKER)
        for client in chosen:
            print(f"== {client.name}", flush=True)
            if not run(client, services.base_url):
                failed.append(client.name)
                print(services.logs())
        services.assert_nothing_is_left()
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed" + "".join(f"; {name}" for name in failed))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
