import importlib.machinery
import sys
from pathlib import Path

import numpy as np
import pytest

from loadtest.plot import Plot, over_time
from loadtest.record import RequestRecord
from pagestream.cli import main
from shared.errors import ConfigurationError

PNG = b"\x89PNG\r\n\x1a\n"


def _record(started_s: float, *times_s: float, tokens: int | None = None) -> RequestRecord:
    return RequestRecord(
        due_s=started_s,
        started_s=started_s,
        chunk_times_s=times_s,
        num_output_tokens=len(times_s) if tokens is None else tokens,
    )


def test_tokens_and_requests_are_spread_over_seconds() -> None:
    records = [_record(100.0, 100.5, 101.5, 102.5, 110.0), _record(104.0, 106.5, 107.0, tokens=6)]
    edges, rates, running = over_time(records)

    assert edges.tolist() == pytest.approx(range(11))
    assert rates.tolist() == pytest.approx([1, 1, 1, 0, 0, 0, 3, 3, 0, 1])
    assert running.tolist() == pytest.approx([1, 1, 1, 1, 2, 2, 2, 1, 1, 1])


@pytest.mark.parametrize("duration_s", [0.001, 0.7, 10.0, 5000.0])
def test_no_token_is_lost_however_long_the_run(duration_s: float) -> None:
    records = [_record(5.0, *np.linspace(5.0, 5.0 + duration_s, 100))]
    edges, rates, running = over_time(records)

    assert len(rates) <= 121
    assert float((rates * np.diff(edges)).sum()) == pytest.approx(100)
    assert float((running * np.diff(edges)).sum()) == pytest.approx(duration_s)


@pytest.mark.parametrize("records", [[], [_record(1.0, 1.0)], [_record(1.0, 1.1, 1.2), _record(1.1, 1.3)]])
def test_any_run_can_be_drawn(tmp_path: Path, records: list[RequestRecord]) -> None:
    plot = Plot(tmp_path / "new" / "run.png")
    plot.draw(records, title="a run")

    assert plot.path.read_bytes().startswith(PNG)


@pytest.mark.parametrize("name", ["run", "run.jpeg", "run.png.txt"])
def test_a_kind_that_cannot_be_drawn_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"must end in one of \.png, \.svg, \.pdf"):
        Plot(tmp_path / name)


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"--plot \S+ cannot be written"):
        Plot(tmp_path / "file" / "run.png")


def test_without_matplotlib_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class WithoutMatplotlib(importlib.machinery.PathFinder):
        @classmethod
        def find_spec(cls, name, path=None, target=None):
            return None if name == "matplotlib" else super().find_spec(name, path, target)

    finders = [WithoutMatplotlib if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", finders)
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)

    with pytest.raises(ConfigurationError, match=r"which is not installed; pip install 'pagestream\[bench\]'"):
        Plot(tmp_path / "run.png")


@pytest.mark.model
def test_a_run_of_the_command_is_drawn(tmp_path: Path) -> None:
    from loadtest.server import serving

    with serving("demo", "--runner", "fake") as url:
        few = ("--num-prompts", "4", "--input-len", "8", "--output-len", "8", "--tokenizer", "demo")
        assert main(["bench", "serve", "--base-url", url, *few, "--plot", str(tmp_path / "run.svg")]) == 0

    assert "<svg" in (tmp_path / "run.svg").read_text()
