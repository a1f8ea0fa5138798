"""Real processes, small ones: shell scripts stand where services will."""

import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest

from pagestream.service_process import Event, ServiceProcess, StopRequested
from pagestream.supervisor import Supervisor
from shared.errors import ConfigurationError

FOREVER = "while :; do sleep 0.05; done"


class Bystander:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.alerts: list[str] = []

    def stage(self, service: str, text: str) -> None:
        self.stages.append(f"{service}: {text}")

    def alert(self, service: str, text: str) -> None:
        self.alerts.append(f"{service}: {text}")


class Troupe:
    """A supervisor of scripts, and all that can be seen of it from outside."""

    def __init__(self, **scripts: str) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.log = io.StringIO()
        self.bystander = Bystander()
        services = [
            ServiceProcess(name, ("/bin/sh", "-c", f"echo pid $$; {script}"), environment={}, events=self.events)
            for name, script in scripts.items()
        ]
        self.supervisor = Supervisor(services, events=self.events, log=self.log, audience=self.bystander)

    def pids(self, service: str) -> list[int]:
        lines = [line.split() for line in self.log.getvalue().splitlines()]
        return [int(words[2]) for words in lines if words[0] == service and words[1] == "pid"]

    def run_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, self.log.getvalue()
            self.supervisor.run(timeout_s=0.02)


@pytest.fixture
def assemble() -> Iterator[Callable[..., Troupe]]:
    troupes: list[Troupe] = []

    def assemble(**scripts: str) -> Troupe:
        troupes.append(Troupe(**scripts))
        troupes[-1].supervisor.start()
        return troupes[-1]

    yield assemble
    for troupe in troupes:
        troupe.supervisor.stop([])


def test_a_killed_service_starts_again_even_while_the_stack_starts(assemble: Callable[..., Troupe]) -> None:
    troupe = assemble(worker=FOREVER)
    troupe.run_until(lambda: len(troupe.pids("worker")) == 1)
    os.kill(troupe.pids("worker")[0], signal.SIGKILL)
    troupe.run_until(lambda: len(troupe.pids("worker")) == 2)

    assert "worker: ended (killed by SIGKILL); starts again in 0.1 s" in troupe.bystander.alerts


def test_a_service_that_gives_up_during_the_start_ends_it_with_its_reason(assemble: Callable[..., Troupe]) -> None:
    troupe = assemble(worker="echo 'pagestream: error: model x does not exist'; exit 1")

    with pytest.raises(ConfigurationError, match=r"^worker did not start: model x does not exist$"):
        troupe.run_until(lambda: False)


def test_a_service_that_gives_up_later_starts_again(assemble: Callable[..., Troupe]) -> None:
    troupe = assemble(worker="exit 3")
    troupe.supervisor.is_settled = True
    troupe.run_until(lambda: len(troupe.pids("worker")) == 3)

    delays = [alert.partition("; ")[2] for alert in troupe.bystander.alerts if "ended" in alert]
    assert delays[:2] == ["starts again in 0.1 s", "starts again in 0.2 s"]


def test_people_see_stages_while_loading_and_only_warnings_after(assemble: Callable[..., Troupe]) -> None:
    said = "2026-01-01 00:00:00 {} worker    {}"
    script = f"echo '{said.format('INFO   ', 'loading')}'; echo '{said.format('WARNING', 'slow disk')}'; {FOREVER}"
    troupe = assemble(worker=script)
    troupe.run_until(lambda: "slow disk" in troupe.log.getvalue())
    assert troupe.bystander.stages == ["worker: loading"]
    assert "worker: slow disk" in troupe.bystander.alerts

    troupe.supervisor.is_settled = True
    os.kill(troupe.pids("worker")[0], signal.SIGKILL)
    troupe.run_until(lambda: troupe.log.getvalue().count("slow disk") == 2)
    assert troupe.bystander.stages == ["worker: loading"]


def test_the_gateway_has_ended_before_the_worker_is_asked_to(assemble: Callable[..., Troupe]) -> None:
    ends = "trap 'sleep 0.1; echo {} ends; exit 0' TERM; echo ready; " + FOREVER
    troupe = assemble(worker=ends.format("worker"), gateway=ends.format("gateway"))
    troupe.run_until(lambda: troupe.log.getvalue().count("ready") == 2)
    troupe.supervisor.stop([["gateway"], ["worker"]])

    endings = [line.split(maxsplit=1)[1] for line in troupe.log.getvalue().splitlines() if line.endswith("ends")]
    assert endings == ["gateway ends", "worker ends"]


def test_at_the_end_only_errors_are_shown(assemble: Callable[..., Troupe]) -> None:
    said = "2026-01-01 00:00:00 {} worker    {}"
    last_words = f"echo '{said.format('WARNING', 'no bus')}'; echo '{said.format('ERROR  ', 'lost a result')}'"
    script = f"ends() {{ {last_words}; exit 0; }}; trap ends TERM; echo ready; {FOREVER}"
    troupe = assemble(worker=script)
    troupe.run_until(lambda: "ready" in troupe.log.getvalue())
    troupe.events.put(StopRequested())
    troupe.supervisor.run(timeout_s=10)
    troupe.bystander.alerts.clear()
    troupe.supervisor.stop([["worker"]])

    assert "no bus" in troupe.log.getvalue()
    assert troupe.bystander.alerts == ["worker: lost a result"]


def test_a_second_stop_request_kills_what_will_not_end(assemble: Callable[..., Troupe]) -> None:
    troupe = assemble(stubborn=f"trap '' TERM; echo ready; {FOREVER}")
    troupe.run_until(lambda: "ready" in troupe.log.getvalue())
    troupe.events.put(StopRequested())
    troupe.supervisor.run(timeout_s=10)
    assert troupe.supervisor.is_stop_requested

    troupe.events.put(StopRequested())
    started_at = time.monotonic()
    troupe.supervisor.stop([["stubborn"]])

    assert time.monotonic() - started_at < 5
    with pytest.raises(ProcessLookupError):
        os.kill(troupe.pids("stubborn")[0], 0)
