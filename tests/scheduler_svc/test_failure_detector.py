"""Who is taken for dead by which looks."""

from scheduler_svc.leadership.failure_detector import CONFIRMATION_S, UNRENEWED_S, FailureDetector
from shared.held_lease import HeldLease, Sighting

SOON_S = 0.6 * CONFIRMATION_S


class Looks:
    """A detector that looks at one holder again and again, at moments of the test's choice."""

    def __init__(self) -> None:
        self.detector = FailureDetector()
        self.now_s = 100.0

    def at(self, connection: str, *, after_s: float = 0.0, is_open: bool, age_s: float = 0.0, view: str = "v") -> bool:
        """Whether the holder is taken for dead by this look."""
        self.now_s += after_s
        lease = HeldLease("w1", connection, is_connected=is_open, age_s=age_s)
        crashed = self.detector.crashed(Sighting(view, (lease,)), now_s=self.now_s)
        assert crashed in ([], [lease])
        return bool(crashed)


def test_a_connection_that_stays_closed_is_a_crash_at_the_second_look() -> None:
    looks = Looks()
    assert not looks.at("c1", is_open=True)
    assert not looks.at("c1", is_open=False)
    assert not looks.at("c1", after_s=SOON_S, is_open=False)
    assert looks.at("c1", after_s=SOON_S, is_open=False)


def test_time_without_looks_is_no_second_look() -> None:
    looks = Looks()
    assert not looks.at("c1", is_open=True)
    assert not looks.at("c1", after_s=60, is_open=False)


def test_a_holder_that_comes_back_by_another_connection_lives() -> None:
    looks = Looks()
    looks.at("c1", is_open=True)
    assert not looks.at("c1", is_open=False)
    assert not looks.at("c2", after_s=2 * CONFIRMATION_S, is_open=True)
    assert not looks.at("c2", after_s=2 * CONFIRMATION_S, is_open=False)
    assert looks.at("c2", after_s=2 * CONFIRMATION_S, is_open=False)


def test_a_connection_that_was_never_seen_is_missed_only_if_its_lease_is_not_renewed_either() -> None:
    looks = Looks()
    for _ in range(20):
        assert not looks.at("c1", after_s=SOON_S, is_open=False, age_s=0.4)
    assert looks.at("c1", after_s=SOON_S, is_open=False, age_s=UNRENEWED_S)


def test_what_one_connection_has_seen_another_may_not_see() -> None:
    looks = Looks()
    looks.at("c1", is_open=True)
    for _ in range(20):
        assert not looks.at("c1", after_s=SOON_S, is_open=False, view="another")


def test_nobody_is_missed_where_connections_cannot_be_seen() -> None:
    looks = Looks()
    looks.at("c1", is_open=True)
    looks.at("c1", is_open=False)
    assert looks.detector.crashed(Sighting(""), now_s=looks.now_s + 60) == []
    assert not looks.at("c1", after_s=60, is_open=False)
