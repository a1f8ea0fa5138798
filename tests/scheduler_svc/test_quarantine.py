"""Requests that kill every worker are found and given up, quickly; nobody else is."""

import math
import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from scheduler_svc.quarantine.quarantine import AtRisk, Quarantine
from shared.dead_letters import Case, Death
from shared.ids import RequestId, WorkerId
from tests.scheduler_svc.simulated_pool import SimulatedPool

MANY = 2000
"""Rounds in which every request here could be computed several times over."""


def run_with_restarts(pool: SimulatedPool, num_workers: int, *, most_deaths: int) -> None:
    """Until all is done: the dead are replaced, as by a supervisor."""
    for _ in range(MANY):
        if not pool.core.num_requests:
            return
        while len(pool.workers) < num_workers:
            pool.add_worker()
        for worker in list(pool.workers):
            pool.plan(worker)
            pool.core.check()
            if pool.execute(worker) and worker in pool.workers:
                pool.deliver(worker)
        assert pool.num_deaths <= most_deaths, "nobody finds out"
    raise AssertionError("somebody starves")


def bound(num_requests: int, num_poisoned: int) -> int:
    return num_poisoned * (2 + math.ceil(math.log2(max(num_requests, 2))))


@pytest.mark.parametrize("num_workers", [1, 3])
@pytest.mark.parametrize("num_requests", [1, 2, 30])
def test_one_poisoned_request_is_found_by_a_few_deaths_and_nobody_else_notices(num_workers, num_requests):
    pool = SimulatedPool(num_blocks=400, max_num_seqs=32, max_num_batched_tokens=128, max_model_len=64)
    requests = [pool.submit([index, 1, 2, 3, 4], max_tokens=12) for index in range(num_requests)]
    guilty = requests[num_requests // 2]
    pool.poison[guilty] = 7
    run_with_restarts(pool, num_workers, most_deaths=bound(num_requests, 1))
    pool.run()
    pool.check_all_done()
    assert list(pool.letters) == [guilty]
    assert len(pool.faults) == 1
    letter = pool.letters[guilty]
    assert letter.request_id == guilty
    assert letter.deaths[-1].num_suspects == 1
    assert {death.num_output_tokens for death in letter.deaths} == {3}


@settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_every_poisoned_request_is_found_and_no_other_fails(data):
    num_workers = data.draw(st.integers(1, 4), "workers")
    pool = SimulatedPool(
        num_blocks=data.draw(st.integers(40, 200), "blocks"),
        max_num_seqs=data.draw(st.integers(2, 24), "slots"),
        max_num_batched_tokens=data.draw(st.integers(24, 64), "budget"),
        max_model_len=64,
    )
    num_requests = data.draw(st.integers(1, 24), "requests")
    requests = [
        pool.submit(
            [1000 + index, *range(data.draw(st.integers(0, 11)))],
            n=data.draw(st.sampled_from([1, 1, 1, 3])),
            max_tokens=data.draw(st.integers(2, 16)),
            priority=data.draw(st.sampled_from([0, 0, 5])),
        )
        for index in range(num_requests)
    ]
    poisoned = data.draw(st.sets(st.sampled_from(requests), max_size=4), "poisoned")
    for request in sorted(poisoned):
        submit = pool.submitted[request]
        last = len(submit.prompt) // 4 + submit.sampling.max_tokens - 2
        pool.poison[request] = data.draw(st.integers(0, last), "position")
    run_with_restarts(pool, num_workers, most_deaths=bound(num_requests, len(poisoned)))
    pool.run()
    pool.check_all_done()
    assert pool.letters.keys() == poisoned
    given_up = {pool._choices[handle][0] for handle in pool.faults}
    assert given_up == poisoned


def test_workers_that_die_of_something_else_fail_no_request():
    """As long as none dies while one suspect is alone on it for the third time, which looks like poison."""
    assert sum(lives_through_deaths(random.Random(seed)) for seed in range(20)) > 5


def lives_through_deaths(randomness: random.Random) -> bool:
    """Whether somebody was on trial meanwhile."""
    was_held = False
    pool = SimulatedPool(num_blocks=200, max_num_seqs=16, max_num_batched_tokens=64, max_model_len=64)
    for index in range(12):
        pool.submit([index, 1, 2], max_tokens=randomness.randint(4, 40))
    for _ in range(MANY):
        while len(pool.workers) < 3:
            pool.add_worker()
        for worker in list(pool.workers):
            pool.plan(worker)
            pool.plan(worker)
            trial = pool.core._isolation._quarantine.trial
            was_held |= trial is not None
            is_alone = trial is not None and trial.worker_id == worker and len(trial.members) == 1
            if is_alone or randomness.random() > 0.15:
                pool.execute(worker)
                pool.deliver(worker)
            else:
                randomness.choice([pool.kill, pool.kill, pool.leave])(worker)
            pool.core.check()
        if not pool.core.num_requests:
            break
    pool.run()
    pool.check_all_done()
    assert not pool.letters
    assert not pool.faults
    return was_held


def risk(*names: str) -> list[AtRisk]:
    return [AtRisk(RequestId(name), 0, {0: 1}) for name in names]


def died(quarantine: Quarantine, worker: str, *names: str) -> RequestId | None:
    guilty = quarantine.worker_died(WorkerId(worker), risk(*names), at_ms=0, reason="test")
    if guilty is None:
        quarantine.check()
    return guilty


def test_after_one_death_suspects_go_on_among_all_others():
    quarantine = Quarantine()
    assert died(quarantine, "w1", "a", "b") is None
    assert not quarantine.is_active
    assert quarantine.may_run(RequestId("a"), WorkerId("w2"))


def test_whoever_got_past_the_first_death_is_not_held_for_the_second():
    quarantine = Quarantine()
    died(quarantine, "w1", "a", "b")
    quarantine.clear(lambda request: {0: 1 if request == "a" else 0})
    died(quarantine, "w2", "a", "b", "c")
    assert not quarantine.may_run(RequestId("b"), WorkerId("w3"))
    assert quarantine.may_run(RequestId("a"), WorkerId("w3"))
    assert quarantine.may_run(RequestId("c"), WorkerId("w3"))


def test_a_group_on_trial_has_its_worker_for_itself_and_waits_again_if_that_leaves():
    quarantine = Quarantine()
    for worker in ("w1", "w2"):
        died(quarantine, worker, "a")
    quarantine.begin_trial(WorkerId("w3"))
    assert quarantine.may_run(RequestId("a"), WorkerId("w3"))
    assert not quarantine.may_run(RequestId("a"), WorkerId("w4"))
    assert not quarantine.may_run(RequestId("innocent"), WorkerId("w3"))
    quarantine.worker_left(WorkerId("w3"))
    quarantine.check()
    assert quarantine.wants_worker
    quarantine.begin_trial(WorkerId("w4"))
    assert died(quarantine, "w4", "a") == "a"


def test_whoever_dies_in_company_on_trial_is_tried_again_alone():
    quarantine = Quarantine()
    for worker in ("w1", "w2"):
        died(quarantine, worker, "a")
    quarantine.begin_trial(WorkerId("w3"))
    assert died(quarantine, "w3", "a", "b") is None
    quarantine.begin_trial(WorkerId("w4"))
    assert died(quarantine, "w4", "a") == "a"


def test_a_suspect_that_ends_is_forgotten_and_its_trial_is_over():
    quarantine = Quarantine()
    for worker in ("w1", "w2"):
        died(quarantine, worker, "a")
    quarantine.begin_trial(WorkerId("w3"))
    quarantine.forget(RequestId("a"))
    quarantine.check()
    assert not quarantine.is_active
    assert not quarantine.cases


def test_what_an_earlier_leader_held_is_held_in_one_group():
    quarantine = Quarantine()
    death = Death(WorkerId("w1"), 0, "test", 2, 0)
    for name in ("a", "b"):
        quarantine.resume(RequestId(name), Case((death, death), 2, {0: 1}))
    quarantine.resume(RequestId("c"), Case((death,), 1, {0: 1}))
    quarantine.check()
    quarantine.begin_trial(WorkerId("w2"))
    assert quarantine.trial
    assert quarantine.trial.members == {"a", "b"}
    assert died(quarantine, "w2", "a", "b") is None
    quarantine.begin_trial(WorkerId("w3"))
    assert died(quarantine, "w3", "a") == "a"
