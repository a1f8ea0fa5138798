"""A few kernels compiled for every target, in a process of their own: here they are interpreted."""

import os
import subprocess
import sys
from pathlib import Path

from kernels.triton.activations import gate_and_mul_kernel
from kernels.triton.aot import budget
from kernels.triton.aot.compilation import Build, Resources
from kernels.triton.device import Target

ROOT = Path(__file__).parents[3]


def test_kernels_compile_within_their_budget() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "kernels.triton.aot", "--quick"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
    assert "16 kernels compiled, 0 checks failed" in ended.stdout


def faults(target: Target, found: Resources) -> list[str]:
    build = Build("b", gate_and_mul_kernel, {}, {}, 4, matrix_unit="wgmma" if target == "sm_90a" else "mma")
    return list(budget.faults(target, build, found, {target: {"b": [100, 50_000]}}))


def test_what_is_wrong_is_said() -> None:
    assert not faults("sm_80", Resources(100, 0, 50_000, "mma"))
    assert not faults("sm_90a", Resources(100, 0, 50_000, "wgmma"))
    assert faults("sm_80", Resources(100, 8, 50_000, "mma")) == ["spills 8 bytes"]
    assert "takes more" in faults("sm_80", Resources(101, 0, 50_000, "mma"))[0]
    assert "takes more" in faults("sm_80", Resources(100, 0, 50_001, "mma"))[0]
    assert "shared memory of 70000" in faults("gfx942", Resources(100, 0, 70_000, "mma"))[0]
    assert "instead of wgmma" in faults("sm_90a", Resources(100, 0, 50_000, "mma"))[0]
    assert "matrix units" in faults("sm_80", Resources(100, 0, 50_000, "none"))[0]


def test_every_kernel_has_its_budget() -> None:
    limits = budget.read()
    assert set(limits) == {"sm_80", "sm_89", "sm_90a", "gfx942"}
    assert len({frozenset(rows) for rows in limits.values()}) == 1
