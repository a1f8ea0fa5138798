"""The native library, in every instruction set this machine has."""

from pathlib import Path

import pytest

from kernels import native
from kernels.native_build import NativeBuildError, Toolchain, build, runnable_variants
from kernels.ops import Ops
from shared.demo_model import cache_directory


@pytest.fixture(scope="session", params=runnable_variants())
def library_path(request: pytest.FixtureRequest) -> Path:
    try:
        Toolchain.find()
    except NativeBuildError as error:
        pytest.skip(f"no native library: {error}")
    return build(cache_directory() / "kernels", request.param)


@pytest.fixture(scope="session")
def ops(library_path: Path) -> Ops:
    return native.load(library_path)
