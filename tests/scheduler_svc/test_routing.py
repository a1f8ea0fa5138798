from scheduler_svc.scheduling.routing import Candidate, choose_worker


def test_nobody_is_chosen_from_nobody():
    assert choose_worker([]) is None


def test_the_worker_that_holds_the_prefix_is_preferred():
    cold, warm = Candidate("a", 1040, 0, 1), Candidate("b", 16, 0, 2)
    assert choose_worker([cold, warm]) == "b"


def test_a_prefix_does_not_win_over_a_long_queue():
    busy, idle = Candidate("a", 16, 5000, 8), Candidate("b", 1040, 0, 0)
    assert choose_worker([busy, idle]) == "b"


def test_equal_workers_are_told_apart_by_load():
    assert choose_worker([Candidate("a", 100, 0, 3), Candidate("b", 100, 0, 2)]) == "b"
