import io
import logging

import pytest

from pagestream.log_line import LogLine
from shared.observability import configure_logging


def test_a_line_of_our_own_logger_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure_logging("worker")
        logging.getLogger("anything").warning("no plan for %d s", 3)
    finally:
        root.handlers[:] = before
        root.setLevel(level)

    assert LogLine.parse(written.getvalue().rstrip(), previous=None) == LogLine(logging.WARNING, "no plan for 3 s")


def test_the_lines_of_a_traceback_are_as_important_as_the_line_above_them() -> None:
    error = LogLine(logging.ERROR, "step failed")

    assert LogLine.parse("Traceback (most recent call last):", previous=error).level == logging.ERROR


def test_what_a_process_prints_before_it_logs_is_important() -> None:
    assert LogLine.parse("Segmentation fault", previous=None) == LogLine(logging.WARNING, "Segmentation fault")


def test_the_reason_for_giving_up_is_known_as_such() -> None:
    line = LogLine.parse("pagestream: error: dtype 'int3' is unknown", previous=None)

    assert line == LogLine(logging.ERROR, "dtype 'int3' is unknown", is_last_word=True)
