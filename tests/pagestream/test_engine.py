from gpu_worker.fake_runner import FakeRunner, fake_token
from pagestream.engine import LocalEngine
from shared.messages import WorkerCapabilities
from shared.sampling import FinishCode, SamplingParams

CAPABILITIES = WorkerCapabilities(
    model="fake", block_size=4, num_blocks=32, max_model_len=64, max_num_seqs=4, max_num_batched_tokens=16
)


def engine():
    return LocalEngine(FakeRunner(CAPABILITIES))


def run(local):
    outputs = []
    while local.has_unfinished_requests:
        outputs += local.step().outputs
    return outputs


def test_every_choice_gets_its_tokens_in_order():
    local = engine()
    request = local.submit([1, 2, 3, 4, 5], SamplingParams(max_tokens=7, n=2))
    told = {0: [], 1: []}
    for output in run(local):
        told[output.choice] += output.token_ids
    assert told == {choice: [fake_token(request, choice, index, 32_000) for index in range(7)] for choice in (0, 1)}
    local.scheduler.check()


def test_the_last_output_says_why_it_is_the_last():
    local = engine()
    local.submit([1, 2], SamplingParams(max_tokens=3))
    assert [output.finish for output in run(local)] == [FinishCode.RUNNING, FinishCode.RUNNING, FinishCode.LENGTH]


def test_cached_tokens_come_with_the_first_output():
    local = engine()
    for expected in (0, 8):
        local.submit(list(range(10)), SamplingParams(max_tokens=2))
        assert [output.num_cached_tokens for output in run(local)] == [expected, None]


def test_a_prompt_that_does_not_fit_ends_with_a_fault():
    local = engine()
    local.submit(list(range(64)), SamplingParams(max_tokens=2))
    (output,) = local.step().outputs
    assert output.finish is FinishCode.ERROR
    assert "64 tokens" in output.fault


def test_a_cancelled_request_gets_nothing_more():
    local = engine()
    request = local.submit([1, 2, 3], SamplingParams(max_tokens=10))
    local.step()
    local.cancel(request)
    assert not local.has_unfinished_requests
    assert local.step().outputs == []
