#!/bin/sh
# Make the development environment in .venv, with the versions of constraints.txt. Called by make.
set -eu

die() { printf '%s\n' "$@" >&2; exit 1; }
step() { printf '\n==> %s\n' "$1"; }

[ -n "${PYTHON:-}" ] || die "No python3 was found. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.11"
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$PYTHON is Python $version; 3.11 or newer is needed. Name another one: make PYTHON=/path/to/python3.11"
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    die "Python's venv is missing. Install it: apt install python$version-venv"

step "Environment: .venv (Python $version)"
"$PYTHON" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip install --quiet --constraint requirements/constraints.txt pip

if [ -n "${TORCH_INDEX:-}" ]; then
    step "torch, from $TORCH_INDEX"
    pip install --no-compile --constraint requirements/constraints.txt --no-deps --index-url "$TORCH_INDEX" torch
fi

step "pagestream and its tools"
# Not compiled: most of it is never imported, and what is, is compiled then.
pip install --no-compile --constraint requirements/constraints.txt --editable '.[all]' --group dev

step "CPU kernels"
.venv/bin/python -m gpu_worker.prebuild
