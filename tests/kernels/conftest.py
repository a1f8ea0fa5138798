"""The native library, in every instruction set this machine has."""

from pathlib import Path

import pytest

from kernels import native
from kernels.native_build import VARIANTS, NativeBuildError, Toolchain, best_variant, build
from kernels.ops import Ops
from shared.demo_model import cache_directory

RUNNABLE = list(VARIANTS)[list(VARIANTS).index(best_variant()) :]


@pytest.fixture(scope="session", params=RUNNABLE)
def library_path(request: pytest.FixtureRequest) -> Path:
    try:
        Toolchain.find()
    except NativeBuildError as error:
        pytest.skip(f"no native library: {error}")
    return build(cache_directory() / "kernels", request.param)


@pytest.fixture(scope="session")
def ops(library_path: Path) -> Ops:
    return native.load(library_path)
