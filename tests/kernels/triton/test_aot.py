"""Each kernel compiled once for each target, in a process of their own: here they are interpreted.

`make kernels-aot` compiles all.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

from kernels.triton.activations import gate_and_mul_kernel
from kernels.triton.aot import budget
from kernels.triton.aot.builds import QUICK, builds
from kernels.triton.aot.compilation import Build, Resources
from kernels.triton.device import Target

ROOT = Path(__file__).parents[3]
TARGETS: tuple[Target, ...] = get_args(Target)


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
    assert f"{len(QUICK) * len(TARGETS)} kernels compiled, 0 checks failed" in ended.stdout


def test_each_kernel_is_among_them() -> None:
    for target in TARGETS:
        made = {build.name: build.kernel for build in builds(target)}
        assert {made[name] for name in QUICK} == set(made.values())


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
    assert set(limits) == set(TARGETS)
    for target in TARGETS:
        assert set(limits[target]) == {build.name for build in builds(target)}
