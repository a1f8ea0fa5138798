"""What kernels may take on each target, as `budget.json` says: numbers that were seen, and must not grow unnoticed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kernels.triton.aot.compilation import SHARED_LIMITS, Build, Resources
from kernels.triton.device import Target

PATH: Final = Path(__file__).with_name("budget.json")

Budget = dict[str, dict[str, list[int]]]
"""By target and build: registers and bytes of shared memory."""


def read() -> Budget:
    """The budget in the repository."""
    budget: Budget = json.loads(PATH.read_text())
    return budget


def write(budget: Budget) -> None:
    """Make this the budget."""
    lines = [
        f'  "{target}": {{\n'
        + ",\n".join(f"    {json.dumps(name)}: {json.dumps(limits)}" for name, limits in rows.items())
        + "\n  }"
        for target, rows in budget.items()
    ]
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def faults(target: Target, build: Build, found: Resources, budget: Budget) -> Iterator[str]:
    """What is wrong with a compiled kernel, in words."""
    if found.spilled:
        yield f"spills {found.spilled} bytes"
    if found.shared_bytes > SHARED_LIMITS[target]:
        yield f"shared memory of {found.shared_bytes} bytes, but {target} has {SHARED_LIMITS[target]}"
    if build.matrix_unit == "wgmma" and found.matrix_unit != "wgmma":
        yield f"multiplies by {found.matrix_unit} instead of wgmma"
    if build.matrix_unit == "mma" and found.matrix_unit == "none":
        yield "does not use the matrix units"
    limits = budget.get(target, {}).get(build.name)
    if limits is None:
        yield "is not in the budget; write it by `make kernels-aot ARGS=--update`"
    elif found.registers > limits[0] or found.shared_bytes > limits[1]:
        yield f"takes more than its budget of {limits[0]} registers and {limits[1]} bytes of shared memory"
