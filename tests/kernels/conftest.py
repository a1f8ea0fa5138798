"""The native library, in every instruction set this machine has."""

import pytest

from kernels import native
from kernels.native_build import NativeBuildError, Toolchain, build, runnable_variants
from kernels.ops import Ops
from shared.demo_model import cache_directory


@pytest.fixture(scope="session", params=runnable_variants())
def ops(request: pytest.FixtureRequest) -> Ops:
    try:
        Toolchain.find()
    except NativeBuildError as error:
        pytest.skip(f"no native library: {error}")
    return native.load(build(cache_directory() / "kernels", request.param))
