import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernels import native_build
from kernels.native_build import NativeBuildError, build

ONE_OPENMP = """
import sys
from pathlib import Path
import torch
from kernels import native
from kernels.native_build import build, runnable_variants
from shared.demo_model import cache_directory
ops = native.load(build(cache_directory() / "kernels", runnable_variants()[0]))
ops.pack_linear([torch.randn(512, 512)], None)(torch.randn(64, 512))
lines = Path("/proc/self/maps").read_text().splitlines()
print({line.split()[-1] for line in lines if "gomp" in line or "libomp" in line or "iomp" in line})
"""


@pytest.fixture
def one_small_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources that compile in a moment."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "one.cpp").write_text('extern "C" int one() { return 1; }\n')
    monkeypatch.setattr(native_build, "SOURCES", sources)
    return sources


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_it_brings_no_second_openmp_runtime() -> None:
    done = subprocess.run([sys.executable, "-c", ONE_OPENMP], capture_output=True, text=True, check=True)
    assert done.stdout.count(".so") == 1, done.stdout


def test_it_is_compiled_once_and_again_when_a_source_changes(one_small_source: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        built = set(pool.map(lambda _: build(tmp_path / "cache", "portable"), range(4)))
    (first,) = built
    made = first.stat().st_mtime_ns
    assert build(tmp_path / "cache", "portable") == first
    assert first.stat().st_mtime_ns == made
    (one_small_source / "one.cpp").write_text('extern "C" int one() { return 2; }\n')
    assert build(tmp_path / "cache", "portable") != first


def test_nothing_but_the_library_is_left(one_small_source: Path, tmp_path: Path) -> None:
    path = build(tmp_path / "cache", "portable")
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".lock", ".so"]


def test_a_broken_source_is_reported_with_the_compilers_words(one_small_source: Path, tmp_path: Path) -> None:
    (one_small_source / "one.cpp").write_text("int one( {")
    with pytest.raises(NativeBuildError, match=r"one\.cpp.*error"):
        build(tmp_path / "cache", "portable")
    assert not list((tmp_path / "cache").glob("*.so"))


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NativeBuildError, match="no-such-compiler"):
        build(tmp_path, "portable")


def test_a_cache_that_cannot_be_written_is_named(one_small_source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NativeBuildError, match="cannot store"):
        build(tmp_path / "file" / "cache", "portable")
