"""`make kernels-aot`: compiles every kernel for every target, prints what each takes, and fails where a check does."""

import argparse
import sys
from typing import Final, get_args

from kernels.triton.aot import budget
from kernels.triton.aot.builds import QUICK, builds
from kernels.triton.aot.compilation import compile_for
from kernels.triton.device import INTERPRETED, Target

_TARGETS: Final[tuple[Target, ...]] = get_args(Target)


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 if no check failed."""
    parser = argparse.ArgumentParser(prog="make kernels-aot", description=__doc__)
    parser.add_argument("--target", choices=_TARGETS, nargs="+", default=_TARGETS)
    parser.add_argument("--quick", action="store_true", help="each kernel once, as the tests do")
    parser.add_argument("--update", action="store_true", help="make what is found the budget")
    options = parser.parse_args(arguments)
    if INTERPRETED:
        parser.error("TRITON_INTERPRET is set: interpreted kernels cannot be compiled; unset it")
    limits = budget.read() if budget.PATH.is_file() else {}
    seen: budget.Budget = {}
    num_faults = 0
    print(f"{'kernel':38} {'target':7} {'registers':>9} {'spilled':>7} {'shared':>7}  unit")
    for target in options.target:
        for build in builds(target):
            if options.quick and build.name not in QUICK:
                continue
            found = compile_for(target, build)
            seen.setdefault(target, {})[build.name] = [found.registers, found.shared_bytes]
            against = seen if options.update else limits
            wrong = list(budget.faults(target, build, found, against))
            num_faults += len(wrong)
            numbers = f"{found.registers:9} {found.spilled:7} {found.shared_bytes:7}"
            print(f"{build.name:38} {target:7} {numbers}  {found.matrix_unit}  {'; '.join(wrong)}", flush=True)
    if options.update and not num_faults:
        budget.write(limits | seen)
    print(f"{sum(map(len, seen.values()))} kernels compiled, {num_faults} checks failed")
    return 1 if num_faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
