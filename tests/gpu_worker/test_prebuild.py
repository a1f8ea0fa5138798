import os
from pathlib import Path

import pytest

from gpu_worker import prebuild
from kernels.native_build import NativeBuildError, Toolchain, buildable_variants


def test_the_library_is_there_after_the_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert prebuild.main([]) == 0
    printed = capsys.readouterr()
    if "not built" not in printed.err:
        assert Path(printed.out.split(": ", 1)[1].strip()).is_file()


def test_a_machine_without_a_compiler_installs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert prebuild.main([]) == 0
    assert "no C++ compiler" in capsys.readouterr().err


@pytest.mark.skipif("KERNEL_TESTS" not in os.environ, reason="a minute of compiling: make test-kernels")
def test_an_image_gets_every_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGESTREAM_CACHE", str(tmp_path))
    try:
        compiler = Toolchain.find().compiler
    except NativeBuildError as error:
        pytest.skip(str(error))
    hasty = tmp_path / "c++"  # without optimising, in half the time
    hasty.write_text(f'#!/bin/sh\nexec {compiler} "$@" -O0\n')
    hasty.chmod(0o755)
    monkeypatch.setenv("CXX", str(hasty))
    assert prebuild.main(["--every-variant"]) == 0
    built = {path.name.partition("-")[0] for path in (tmp_path / "kernels").glob("*.so")}
    assert built == set(buildable_variants())


def test_other_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert prebuild.main(["--all"]) == 2
    assert "--every-variant" in capsys.readouterr().err
