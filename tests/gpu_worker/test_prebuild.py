from pathlib import Path

import pytest

from gpu_worker import prebuild


def test_the_library_is_there_after_the_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert prebuild.main() == 0
    printed = capsys.readouterr()
    if "not built" not in printed.err:
        assert Path(printed.out.split(": ", 1)[1].strip()).is_file()


def test_a_machine_without_a_compiler_installs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert prebuild.main() == 0
    assert "no C++ compiler" in capsys.readouterr().err
