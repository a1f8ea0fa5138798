"""The checks that `make lint` and `make type` run, as tests, so that `make test` tells all there is to tell."""

import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.mark.parametrize(
    "command",
    [["lint-imports"], ["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]],
    ids=["layers", "style", "format", "types"],
)
def test_the_repository_passes(command: list[str]) -> None:
    program, *arguments = command
    ended = subprocess.run(
        [SCRIPTS / program, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout
