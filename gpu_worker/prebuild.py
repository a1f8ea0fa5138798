"""`python -m gpu_worker.prebuild`: compile the native kernels at install, so that the first start need not."""

import sys

from gpu_worker.ops_selection import native_library
from kernels.native_build import NativeBuildError


def main() -> int:
    """Compile for this machine's instruction set. Without a compiler say so: PyTorch's operators do the work then."""
    try:
        print(f"native CPU kernels: {native_library()}")  # noqa: T201 - what this command is for
    except NativeBuildError as error:
        print(f"native CPU kernels are not built, PyTorch's operators are used: {error}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
