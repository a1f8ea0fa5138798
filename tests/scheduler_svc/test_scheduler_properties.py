"""The core through any interleaving of events: workers check every plan, and tokens show every mistake."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shared.sampling import Pooling
from tests.scheduler_svc.simulated_pool import SimulatedPool

PREFIXES = [[], list(range(100, 108)), list(range(100, 113)), list(range(200, 204))]


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(8, 30),
        budget=st.integers(4, 24),
        max_num_seqs=st.integers(1, 6),
        caching=st.booleans(),
        depth=st.integers(1, 3),
        efficient=st.none() | st.integers(1, 16),
    )
    def start(self, num_blocks, budget, max_num_seqs, caching, depth, efficient):
        self.pool = SimulatedPool(
            num_blocks=num_blocks,
            max_model_len=num_blocks * 4,
            max_num_batched_tokens=budget,
            max_num_seqs=max_num_seqs,
            enable_prefix_caching=caching,
            max_plans_in_flight=depth,
            num_efficient_tokens=efficient,
        )
        self.pool.add_worker()

    @rule(
        prefix=st.sampled_from(PREFIXES),
        rest=st.lists(st.integers(0, 3), min_size=1, max_size=8),
        n=st.integers(1, 4),
        max_tokens=st.integers(1, 24),
        stops=st.booleans(),
        priority=st.sampled_from([0, 0, 5]),
        logprobs=st.sampled_from([None, 0, 2]),
        prompt_logprobs=st.sampled_from([None, None, 1]),
    )
    def submit(self, prefix, rest, n, max_tokens, stops, priority, logprobs, prompt_logprobs):
        self.pool.submit(
            [*prefix, *rest], n=n, max_tokens=max_tokens, stops=stops, priority=priority, logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )  # fmt: skip

    @rule(
        prefix=st.sampled_from(PREFIXES),
        rest=st.lists(st.integers(0, 3), min_size=1, max_size=8),
        pooling=st.sampled_from([Pooling.LAST, Pooling.MEAN]),
        priority=st.sampled_from([0, 5]),
    )
    def submit_for_a_vector(self, prefix, rest, pooling, priority):
        self.pool.submit([*prefix, *rest], max_tokens=1, pooling=pooling, priority=priority)

    @rule(data=st.data(), count=st.integers(1, 3))
    def plan(self, data, count):
        worker = self._any_worker(data)
        for _ in range(count):
            self.pool.plan(worker)

    @rule(data=st.data())
    def execute(self, data):
        self.pool.execute(self._any_worker(data))

    @rule(data=st.data())
    def deliver(self, data):
        self.pool.deliver(self._any_worker(data))

    @rule(data=st.data(), steps=st.integers(1, 6))
    def go_on(self, data, steps):
        worker = self._any_worker(data)
        for _ in range(steps):
            self.pool.plan(worker)
            self.pool.execute(worker)
            self.pool.deliver(worker)

    @rule()
    def keep_outputs(self):
        self.pool.keep_outputs()

    @precondition(lambda self: self.pool.submitted)
    @rule(data=st.data())
    def cancel(self, data):
        request = data.draw(st.sampled_from(sorted(self.pool.submitted)))
        choices = [None, *range(self.pool.submitted[request].sampling.n)]
        self.pool.cancel(request, data.draw(st.sampled_from(choices)))

    @precondition(lambda self: len(self.pool.workers) < 3)
    @rule()
    def add_worker(self):
        self.pool.add_worker()

    @precondition(lambda self: len(self.pool.workers) > 1)
    @rule(data=st.data())
    def kill_worker(self, data):
        self.pool.kill(self._any_worker(data))

    @invariant()
    def invariants_hold(self):
        if hasattr(self, "pool"):
            self.pool.core.check()

    def teardown(self):
        if hasattr(self, "pool"):
            self.pool.run()
            self.pool.keep_outputs()
            self.pool.check_all_done()

    def _any_worker(self, data):
        return data.draw(st.sampled_from(sorted(self.pool.workers)))


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=int(os.environ.get("SCHEDULER_EXAMPLES", "300")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
