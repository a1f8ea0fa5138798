import pytest

from gpu_worker.batch_buckets import MAX_CAPTURED, batch_buckets, bucket_of


@pytest.mark.parametrize("max_num_seqs", [1, 2, 3, 4, 5, 8, 64, 100, 256, 300, 1000])
def test_every_batch_that_is_captured_has_the_next_larger_bucket(max_num_seqs: int) -> None:
    buckets = batch_buckets(max_num_seqs)
    most = min(max_num_seqs, MAX_CAPTURED)
    assert list(buckets) == sorted(set(buckets))
    assert buckets[-1] == most
    for num_seqs in range(1, most + 1):
        assert bucket_of(num_seqs, buckets) == min(size for size in buckets if size >= num_seqs)
    assert bucket_of(most + 1, buckets) is None


def test_buckets_are_those_of_vllm() -> None:
    assert batch_buckets(40) == (1, 2, 4, 8, 16, 24, 32, 40)
    assert batch_buckets(30) == (1, 2, 4, 8, 16, 24, 30)
    assert batch_buckets(300)[-4:] == (256, 272, 288, 300)
    assert len(batch_buckets(512)) == 3 + 31 + 17
