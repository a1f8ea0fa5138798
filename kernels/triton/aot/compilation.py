"""One kernel compiled for one target, and what it takes there. Needs no GPU, no driver and no CUDA toolkit."""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from kernels.triton.device import Target

_TRITON_TARGETS: Final[dict[Target, GPUTarget]] = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90a": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

SHARED_LIMITS: Final[dict[Target, int]] = {"sm_80": 166_912, "sm_89": 101_376, "sm_90a": 232_448, "gfx942": 65_536}
"""Bytes of shared memory (AMD: LDS) that one program may have. Source: CUDA's programming guide; CDNA3's ISA guide."""


_SCRATCH: Final = r"\.private_segment_fixed_size:\s+(\d+)"


@dataclass(frozen=True, slots=True)
class Build:
    """A kernel with everything that decides its code.

    Attributes:
        name: For people and the budget file.
        kernel: Decorated by `triton.jit`.
        types: Of the arguments that are not constants: "*bf16", "i32", "fp32", ...
        constants: The others.
        num_warps: Of a program.
        num_stages: Of its software pipelines.
        matrix_unit: Must be used: "mma" for any, "wgmma" for Hopper's there; None if the kernel multiplies no matrices.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, object]
    num_warps: int
    num_stages: int = 2
    matrix_unit: str | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """What a compiled kernel takes.

    Attributes:
        registers: Of a thread.
        spilled: Bytes of memory for what finds no register. (AMD's scalars may go to vector registers instead.)
        shared_bytes: Of a program.
        matrix_unit: "wgmma", "mma" or "none".
    """

    registers: int
    spilled: int
    shared_bytes: int
    matrix_unit: str


def compile_for(target: Target, build: Build) -> Resources:
    """Compile and measure. Pointers and strides are taken for multiples of 16, as they are when the ops launch."""
    kernel = build.kernel
    signature = {name: build.types.get(name, "constexpr") for name in kernel.arg_names}
    aligned = [
        place
        for place, name in enumerate(kernel.arg_names)
        if name.endswith(("_ptr", "_stride")) and name in build.types
    ]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs=dict(build.constants),
        attrs={(place,): [["tt.divisibility", 16]] for place in aligned},
    )
    options = {"num_warps": build.num_warps, "num_stages": build.num_stages}
    compiled = triton.compile(source, target=_TRITON_TARGETS[target], options=options)
    shared = int(compiled.metadata.shared)
    if target == "gfx942":
        text = compiled.asm["amdgcn"]
        unit = "mma" if "v_mfma" in text else "none"
        return Resources(_number(r"\.vgpr_count:\s+(\d+)", text), _number(_SCRATCH, text), shared, unit)
    code = compiled.asm["ptx"]
    report = _ptxas(code, target)
    unit = "wgmma" if "wgmma.mma_async" in code else "mma" if "mma.sync" in code else "none"
    spilled = _number(r"(\d+) bytes spill stores", report) + _number(r"(\d+) bytes spill loads", report)
    return Resources(_number(r"Used (\d+) registers", report), spilled, shared, unit)


def _ptxas(code: str, target: Target) -> str:
    """What the assembler that Triton brings says about registers, with the flags that Triton gives it."""
    program = get_ptxas(int(target[3:5])).path
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "kernel.ptx"
        source.write_text(code)
        command = [
            program,
            "-v",
            "--regAllocOptLevel=2",
            f"--gpu-name={target}",
            source,
            "-o",
            source.with_suffix(".o"),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  Triton's own program
    return ended.stdout + ended.stderr


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, f"the compiler's report has no {pattern!r}"
    return int(found[1])
