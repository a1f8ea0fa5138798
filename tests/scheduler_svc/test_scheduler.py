import random
import statistics

import pytest

from scheduler_svc.accounting.occupancy import kv_cache_unused_ratio
from shared.ids import RequestId
from shared.messages import Cancel
from shared.sampling import FinishCode
from tests.scheduler_svc.simulated_pool import VOCAB_SIZE, SimulatedPool


def test_a_request_gets_its_tokens_and_leaves_nothing_behind():
    pool = SimulatedPool()
    pool.add_worker()
    request = pool.submit([10, 11, 12], max_tokens=5)
    pool.run()
    assert len(pool.output(request)) == 5
    assert pool.finishes[request, 0] is FinishCode.LENGTH
    pool.check_all_done()


def test_a_stop_token_ends_a_sequence_although_a_plan_in_flight_still_names_it():
    pool = SimulatedPool()
    worker = pool.add_worker()
    request = pool.submit([10, 11, 12], max_tokens=20, stops=True)
    while (request, 0) not in pool.finishes:
        while pool.plan(worker):
            pass
        pool.execute(worker)
        pool.deliver(worker)
    assert len(pool.core.workers[worker].in_flight) == 1
    pool.run()
    pool.check_all_done()


def test_requests_without_a_worker_wait_for_one():
    pool = SimulatedPool()
    request = pool.submit([10, 11])
    assert len(pool.core.waiting) == 1
    pool.add_worker()
    pool.run()
    assert pool.output(request) == pool.expected(request)
    pool.check_all_done()


def test_a_long_prompt_is_computed_in_chunks_beside_decodes():
    pool = SimulatedPool(max_num_batched_tokens=8)
    worker = pool.add_worker()
    short = pool.submit([1, 2], max_tokens=20)
    pool.plan(worker), pool.execute(worker), pool.deliver(worker)
    long = pool.submit(list(range(100, 130)), max_tokens=2)
    told_before = len(pool.output(short))
    while not pool.output(long):
        while pool.plan(worker):
            pass
        pool.execute(worker), pool.deliver(worker)
    assert len(pool.output(short)) - told_before >= 4, "decoding went on while the prompt was computed"
    pool.run()
    pool.check_all_done()


def test_a_prompt_that_would_only_make_the_step_longer_is_begun_in_the_next():
    pool = SimulatedPool(num_efficient_tokens=6)
    worker = pool.add_worker()
    prompts = [[1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11, 12, 13], [14, 15]]
    requests = [pool.submit(prompt, max_tokens=8) for prompt in prompts]
    num_outputs = []
    for _ in range(3):
        pool.plan(worker), pool.execute(worker), pool.deliver(worker)
        num_outputs.append([len(pool.output(request)) for request in requests])
    assert num_outputs == [[1, 1, 0, 0], [2, 2, 1, 0], [3, 3, 2, 1]]
    pool.run()
    pool.check_all_done()


def test_prompts_that_come_together_compute_their_prefix_once_if_begun_one_after_another():
    pool = SimulatedPool(num_efficient_tokens=4, max_num_batched_tokens=64, num_blocks=64)
    pool.add_worker()
    requests = [pool.submit([*range(100, 132), last], max_tokens=1) for last in range(3)]
    pool.run()
    assert [pool.cached[request, 0] for request in requests] == [0, 32, 32]
    assert pool.num_computed == 33 + 1 + 1
    pool.check_all_done()


def test_a_shared_prefix_is_computed_once():
    pool = SimulatedPool(max_model_len=64, num_blocks=64)
    pool.add_worker()
    prefix = list(range(100, 132))
    pool.submit([*prefix, 1, 2], max_tokens=2)
    pool.run()
    computed = pool.num_computed
    second = pool.submit([*prefix, 3, 4, 5], max_tokens=2)
    pool.run()
    assert pool.cached[second, 0] == 32
    assert pool.num_computed - computed == 3 + 1
    pool.check_all_done()


def test_a_prompt_that_is_cached_whole_still_computes_its_last_token():
    pool = SimulatedPool()
    pool.add_worker()
    prompt = list(range(100, 108))
    pool.submit(prompt, max_tokens=1)
    pool.run()
    again = pool.submit(prompt, max_tokens=1)
    pool.run()
    assert pool.cached[again, 0] == 4
    pool.check_all_done()


def test_another_salt_hits_nothing():
    pool = SimulatedPool()
    pool.add_worker()
    prompt = list(range(100, 112))
    pool.submit(prompt, salt="alice")
    pool.run()
    other = pool.submit(prompt, salt="bob")
    pool.run()
    assert pool.cached[other, 0] == 0


def test_without_prefix_caching_nothing_is_cached():
    pool = SimulatedPool(enable_prefix_caching=False)
    worker = pool.add_worker()
    prompt = list(range(100, 112))
    for _ in range(2):
        request = pool.submit(prompt)
        pool.run()
    assert pool.cached[request, 0] == 0
    assert len(pool.core.workers[worker].prefix_cache) == 0
    pool.check_all_done()


@pytest.mark.parametrize("prompt_tokens", [1, 2, 4, 5, 9, 13])
@pytest.mark.parametrize("caching", [True, False])
def test_choices_branch_off_one_computed_prompt(prompt_tokens, caching):
    pool = SimulatedPool(enable_prefix_caching=caching, num_blocks=64)
    pool.add_worker()
    pool.submit(list(range(100, 100 + prompt_tokens)), n=4, max_tokens=6)
    pool.run()
    # The prompt once, its last token again for each of 3 forks, and 5 further tokens for each of 4 choices.
    assert pool.num_computed == prompt_tokens + 3 + 4 * 5
    pool.check_all_done()


def test_choices_whose_first_one_ends_at_once_still_run():
    pool = SimulatedPool()
    pool.add_worker()
    request = pool.submit([5, 6, 7, 8, 9], n=3, max_tokens=1)
    pool.run()
    assert all(pool.output(request, choice) for choice in range(3))
    pool.check_all_done()


def test_when_blocks_run_out_the_youngest_gives_way_and_loses_no_token():
    pool = SimulatedPool(num_blocks=12, max_model_len=40, max_num_batched_tokens=32)
    pool.add_worker()
    requests = [pool.submit([index, 1, 2, 3, 4, 5], max_tokens=20) for index in range(5)]
    pool.run()
    assert pool.core.num_preemptions > 0
    assert all(pool.output(request) == pool.expected(request) for request in requests)
    pool.check_all_done()


def test_the_step_budget_is_never_exceeded_by_many_decodes():
    pool = SimulatedPool(max_num_batched_tokens=4, max_num_seqs=6)
    pool.add_worker()
    for index in range(6):
        pool.submit([index, 1, 2], max_tokens=4)
    pool.run()
    pool.check_all_done()


def test_a_cancelled_request_frees_everything_at_once():
    pool = SimulatedPool()
    worker = pool.add_worker()
    request = pool.submit(list(range(100, 120)), max_tokens=30, n=2)
    for _ in range(4):
        pool.plan(worker), pool.execute(worker), pool.deliver(worker)
    pool.cancel(request)
    assert pool.core.workers[worker].pool.num_free == pool.core.workers[worker].pool.num_blocks
    pool.run()
    pool.check_all_done()


def test_a_cancel_that_is_read_before_its_request_ends_it_all_the_same() -> None:
    pool = SimulatedPool()
    pool.add_worker()
    pool.core.cancel(Cancel(request_id=RequestId("r0"), reason="disconnect"))
    pool.submit([1, 2, 3])
    assert pool.finished == ["r0"]
    assert pool.core.num_requests == 0


def test_one_cancelled_choice_does_not_end_the_others():
    pool = SimulatedPool()
    pool.add_worker()
    request = pool.submit([1, 2, 3, 4, 5], max_tokens=6, n=3)
    pool.cancel(request, choice=0)
    pool.run()
    assert [len(pool.output(request, choice)) for choice in range(3)] == [0, 6, 6]
    pool.check_all_done()


def test_sequences_of_a_dead_worker_go_on_elsewhere_with_exactly_their_tokens():
    pool = SimulatedPool()
    first, second = pool.add_worker(), pool.add_worker()
    requests = [pool.submit([index, 1, 2, 3], max_tokens=12, n=1 + index % 2) for index in range(4)]
    for _ in range(5):
        for worker in (first, second):
            while pool.plan(worker):
                pass
            pool.execute(worker)
    assert pool.core.workers[first].running
    pool.kill(first)
    pool.run()
    assert all(pool.output(request) == pool.expected(request) for request in requests)
    pool.check_all_done()


def test_a_worker_that_is_gone_is_sent_nothing() -> None:
    pool = SimulatedPool()
    worker = pool.add_worker()
    pool.submit([1, 2, 3])
    pool.kill(worker)
    assert pool.core.next_plan(worker, now_s=0.0) is None


def test_a_prefix_draws_a_request_to_the_worker_that_holds_it():
    pool = SimulatedPool(num_blocks=64)
    pool.add_worker(), pool.add_worker()
    prefix = list(range(100, 140))
    pool.submit([*prefix, 1], max_tokens=1)
    pool.run()
    for index in range(3):
        request = pool.submit([*prefix, 2, index], max_tokens=1)
        pool.run()
        assert pool.cached[request, 0] == 40
    pool.check_all_done()


def test_new_requests_spread_over_workers():
    pool = SimulatedPool()
    workers = [pool.add_worker(), pool.add_worker()]
    for index in range(4):
        pool.submit([index, 1, 2], max_tokens=10)
    for worker in workers * 2:
        pool.plan(worker)
    assert [len(pool.core.workers[worker].running) for worker in workers] == [2, 2]


def test_a_prompt_that_no_context_holds_is_refused_and_harms_nobody():
    pool = SimulatedPool(max_model_len=16)
    pool.add_worker()
    good = pool.submit([1, 2, 3], max_tokens=3)
    too_long = pool.submit(list(range(16)), max_tokens=3)
    pool.run()
    (message,) = pool.faults.values()
    assert "16 tokens" in message
    assert pool.output(too_long) == []
    assert pool.output(good) == pool.expected(good)
    pool.check_all_done()


def test_a_refusal_waits_for_the_first_worker_to_say_how_much_it_holds():
    pool = SimulatedPool(max_model_len=16)
    pool.submit(list(range(20)))
    assert not pool.faults
    pool.add_worker()
    pool._collect()
    assert pool.faults
    pool.check_all_done()


def test_output_ends_where_the_context_ends():
    pool = SimulatedPool(max_model_len=16)
    pool.add_worker()
    request = pool.submit(list(range(10)), max_tokens=100)
    pool.run()
    assert len(pool.output(request)) == 6
    pool.check_all_done()


def test_the_same_request_submitted_twice_runs_once():
    pool = SimulatedPool()
    pool.add_worker()
    request = pool.submit([1, 2, 3], max_tokens=3)
    pool.core.submit(pool.submitted[request], entry="again")
    assert pool.core.take_outcomes().finished == [request], "one entry is enough, and the later one stays longer"
    pool.run()
    assert pool.finished == ["again"]
    assert pool.output(request) == pool.expected(request)
    pool.core.check()


def test_a_preempted_sequence_waits_for_its_results_in_flight():
    pool = SimulatedPool(num_blocks=6, max_model_len=24, max_num_batched_tokens=16, max_plans_in_flight=3)
    worker = pool.add_worker()
    old = pool.submit([1, 2, 3, 4, 5, 6, 7], max_tokens=12)
    young = pool.submit([11, 12, 13, 14, 15, 16, 17], max_tokens=12)
    while not pool.core.num_preemptions:
        if not pool.plan(worker):
            pool.execute(worker), pool.deliver(worker)
    (waiting,) = pool.core.waiting
    assert waiting.num_plans_in_flight
    pool.cancel(old)
    pool.execute(worker), pool.deliver(worker)
    pool.plan(worker)
    assert list(pool.core.waiting) == [waiting]
    pool.run()
    assert pool.output(young) == pool.expected(young)
    pool.check_all_done()


def test_slots_that_no_token_has_are_counted() -> None:
    pool = SimulatedPool()
    worker = pool.add_worker()
    assert kv_cache_unused_ratio(pool.core.workers.values()) == 0.0
    pool.submit([1, 2, 3, 4, 5])
    pool.submit([6, 7, 8])
    pool.plan(worker)
    assert kv_cache_unused_ratio(pool.core.workers.values()) == (3 + 1) / (3 * 4)
    pool.run()
    assert kv_cache_unused_ratio(pool.core.workers.values()) == 0.0


def test_a_shared_block_has_its_slots_once() -> None:
    pool = SimulatedPool()
    worker = pool.add_worker()
    pool.submit(list(range(9)), n=3)
    while pool.core.num_running < 3:
        pool.plan(worker)
        pool.execute(worker)
        pool.deliver(worker)
    held = sum(-(-sequence.num_computed_tokens // 4) for sequence in pool.core.workers[worker].running) - 2 * 2
    unused = sum(-sequence.num_computed_tokens % 4 for sequence in pool.core.workers[worker].running)
    assert kv_cache_unused_ratio(pool.core.workers.values()) == unused / (held * 4) > 0


def test_conversations_leave_few_slots_unused() -> None:
    """Prompts and outputs of chat: lognormal around 220 and 200 tokens, 32 at once, blocks of 16."""
    draw = random.Random(0)
    pool = SimulatedPool(
        block_size=16, num_blocks=4096, max_model_len=2048, max_num_seqs=32, max_num_batched_tokens=512
    )
    worker = pool.add_worker()
    for _ in range(150):
        prompt_len, output_len = (min(1000, max(4, round(draw.lognormvariate(mu, 0.8)))) for mu in (5.07, 4.98))
        pool.submit([draw.randrange(VOCAB_SIZE) for _ in range(prompt_len)], max_tokens=output_len)
    ratios = []
    while pool.core.num_requests:
        pool.plan(worker)
        if pool.core.num_running == 32:
            ratios.append(kv_cache_unused_ratio(pool.core.workers.values()))
        pool.execute(worker)
        pool.deliver(worker)
    print(f"unused: {statistics.mean(ratios):.2%} of held slots, {max(ratios):.2%} at most, over {len(ratios)} plans")
    assert len(ratios) > 100
    assert statistics.mean(ratios) < 0.04


def test_who_waits_for_an_answer_takes_the_place_of_who_does_not():
    pool = SimulatedPool(max_num_seqs=2)
    worker = pool.add_worker()
    patient = [pool.submit([10 * i, 2, 3], max_tokens=30, priority=5) for i in range(3)]
    for _ in range(4):
        pool.plan(worker), pool.execute(worker), pool.deliver(worker)
    urgent = pool.submit([7, 8, 9], max_tokens=3)
    num_steps = 0
    while (urgent, 0) not in pool.finishes:
        pool.plan(worker), pool.execute(worker), pool.deliver(worker)
        num_steps += 1
    assert num_steps <= 6, "it waited for somebody's end"
    assert pool.core.num_preemptions == 1
    assert not any((request, 0) in pool.finishes for request in patient)
    pool.run()
    pool.check_all_done()


def test_who_waits_for_an_answer_gets_the_blocks_of_who_does_not():
    pool = SimulatedPool(num_blocks=8, max_model_len=32)
    worker = pool.add_worker()
    for i in range(2):
        pool.submit([10 * i, *range(10)], max_tokens=4, priority=5)
    pool.plan(worker), pool.execute(worker), pool.deliver(worker)
    urgent = pool.submit(list(range(50, 70)), max_tokens=2)
    pool.plan(worker), pool.plan(worker)
    assert pool.core.num_preemptions == 1
    pool.run()
    assert pool.output(urgent)
    pool.check_all_done()


def test_nobody_gives_way_to_an_equal_nor_where_another_worker_has_room():
    pool = SimulatedPool(max_num_seqs=1)
    worker = pool.add_worker()
    pool.submit([1, 2, 3], max_tokens=20, priority=5)
    pool.plan(worker), pool.execute(worker), pool.deliver(worker)
    pool.submit([4, 5, 6], priority=5)
    for _ in range(3):
        pool.plan(worker), pool.execute(worker), pool.deliver(worker)
    pool.add_worker()
    pool.submit([7, 8, 9])
    pool.run()
    assert pool.core.num_preemptions == 0
    pool.check_all_done()


def test_a_prompt_whose_logprobs_are_to_be_told_hits_no_cache_until_it_has_output() -> None:
    pool = SimulatedPool(num_blocks=8)
    pool.add_worker()
    prompt = list(range(100, 113))
    pool.submit(prompt)
    pool.run()
    told = pool.submit(prompt, prompt_logprobs=1, max_tokens=4)
    plain = pool.submit(prompt, max_tokens=4)
    pool.run()
    assert (pool.cached[told, 0], pool.cached[plain, 0]) == (0, 12)
    pool.check_all_done()


def test_a_prompt_is_told_again_from_its_beginning_after_a_worker_died_in_its_middle() -> None:
    pool = SimulatedPool(max_num_batched_tokens=8)
    first, second = pool.add_worker(), pool.add_worker()
    told = pool.submit(list(range(100, 120)), prompt_logprobs=2)
    victim = first if pool.plan(first) else second
    pool.execute(victim)
    pool.kill(victim)
    assert sorted(pool.prompt_logprobs[told, 0]) == list(range(1, 9))
    pool.run()
    pool.check_all_done()
