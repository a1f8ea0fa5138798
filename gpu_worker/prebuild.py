"""`python -m gpu_worker.prebuild`: compile the native kernels at install, so that the first start need not."""

import sys
from collections.abc import Sequence

from gpu_worker.ops_selection import native_library
from kernels.native_build import NativeBuildError, buildable_variants

_EVERY = "--every-variant"


def main(arguments: Sequence[str]) -> int:
    """Compile for this machine's instruction set; with --every-variant, as an image needs it, for all there are.

    Without a compiler say so: PyTorch's operators do the work then.
    """
    if list(arguments) not in ([], [_EVERY]):
        print(f"unknown arguments {' '.join(arguments)}; there is only {_EVERY}", file=sys.stderr)  # noqa: T201
        return 2
    try:
        for variant in buildable_variants() if arguments else [None]:
            print(f"native CPU kernels: {native_library(variant)}")  # noqa: T201 - what this command is for
    except NativeBuildError as error:
        print(f"native CPU kernels are not built, PyTorch's operators are used: {error}", file=sys.stderr)  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
