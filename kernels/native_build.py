"""Builds the native library: C++ sources into one shared object, once for each version of what goes into it.

The object lies in a cache directory under a name made from a hash of sources, flags and compiler. Processes that start
together build it once; it appears under its name complete or not at all.
"""

import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch

from kernels import matrix_unit

_log = logging.getLogger(__name__)

SOURCES: Final = Path(__file__).parent / "native"

# Not -ffast-math: the order of sums is what makes a row's result independent of its batch.
_FLAGS: Final = (
    *("-std=c++17", "-O2", "-fPIC", "-pthread"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-Wno-psabi"),
)

VARIANTS: Final = {
    "amx": ("-march=x86-64-v4", "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
    "avx512": ("-march=x86-64-v4",),
    "avx2": ("-march=x86-64-v3",),
    "portable": (),
}
"""Flags by instruction set, best first."""


class NativeBuildError(Exception):
    """The library cannot be built here; the message says why."""


def buildable_variants() -> list[str]:
    """The instruction sets that a compiler for this kind of machine knows, best first."""
    return list(VARIANTS) if _is_x86() else ["portable"]


def runnable_variants() -> list[str]:
    """The instruction sets this machine has, best first: as PyTorch sees it, and with its matrix unit."""
    best = "portable"
    if _is_x86():
        best = {"AVX2": "avx2", "AVX512": "avx512"}.get(torch.backends.cpu.get_cpu_capability(), "portable")
    if best == "avx512" and matrix_unit.request():
        best = "amx"
    variants = list(VARIANTS)
    return variants[variants.index(best) :]


def _is_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A compiler and what its version says."""

    compiler: str
    version: str

    @classmethod
    def find(cls) -> "Toolchain":
        """$CXX, else g++ or clang++.

        Raises:
            NativeBuildError: there is none.
        """
        named = os.environ.get("CXX")
        candidates = [named] if named else ["g++", "clang++", "c++"]
        compiler = next(filter(None, map(shutil.which, candidates)), None)
        if compiler is None:
            raise NativeBuildError(f"no C++ compiler found (looked for {', '.join(candidates)})")
        return cls(compiler, _run([compiler, "--version"]).splitlines()[0])


def build(directory: Path, variant: str) -> Path:
    """The library for an instruction set, compiled if it is not in this directory yet (seconds).

    Raises:
        NativeBuildError: it cannot be compiled or stored.
    """
    toolchain = Toolchain.find()
    flags = [*_FLAGS, *VARIANTS[variant]]
    target = directory / f"{variant}-{_digest(toolchain, flags)}.so"
    if target.is_file():
        return target
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with target.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.is_file():
                _compile(toolchain, flags, target)
    except OSError as error:
        raise NativeBuildError(f"cannot store {target}: {error}") from error
    return target


def _digest(toolchain: Toolchain, flags: Sequence[str]) -> str:
    state = hashlib.sha256(repr((toolchain, flags, platform.machine())).encode())
    for path in sorted(SOURCES.iterdir()):
        state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()[:16]


def _compile(toolchain: Toolchain, flags: Sequence[str], target: Path) -> None:
    _log.info("compiling the native CPU kernels for %s, once", target.stem.partition("-")[0])
    with TemporaryDirectory(dir=target.parent, prefix=".build-") as scratch:
        sources = sorted(SOURCES.glob("*.cpp"))
        objects = [Path(scratch) / f"{source.stem}.o" for source in sources]
        commands = [
            [toolchain.compiler, *flags, "-c", str(source), "-o", str(made)]
            for source, made in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(_run, commands))
        linked = Path(scratch) / target.name
        _run([toolchain.compiler, "-shared", *map(str, objects), "-pthread", "-o", str(linked)])
        linked.replace(target)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own arguments
    if done.returncode:
        raise NativeBuildError(f"{' '.join(command)} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout
