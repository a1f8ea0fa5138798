import pytest

from scheduler_svc.paging.block_pool import BlockPool


def test_blocks_are_handed_out_low_to_high():
    pool = BlockPool(4)
    assert [pool.allocate() for _ in range(4)] == [0, 1, 2, 3]


def test_cached_blocks_are_handed_out_last():
    pool = BlockPool(5, cached=[3, 0])
    assert [pool.allocate() for _ in range(5)] == [1, 2, 4, 3, 0]
    pool.check()


def test_an_exhausted_pool_raises():
    pool = BlockPool(1)
    pool.allocate()
    with pytest.raises(IndexError, match="no free block"):
        pool.allocate()


def test_a_shared_block_is_free_only_after_its_last_holder_released_it():
    pool = BlockPool(2)
    block = pool.allocate()
    pool.share(block)
    pool.release(block, is_cached=True)
    assert pool.num_free == 1
    pool.release(block, is_cached=True)
    assert pool.num_free == 2
    pool.check()


def test_a_free_block_can_be_taken_back_from_the_middle_of_the_free_list():
    pool = BlockPool(3)
    pool.share(1)
    assert pool.ref_count(1) == 1
    assert [pool.allocate(), pool.allocate()] == [0, 2]
    pool.check()


def test_cached_blocks_are_evicted_last_and_the_longest_unused_of_them_first():
    pool = BlockPool(3)
    first, second, third = (pool.allocate() for _ in range(3))
    pool.release(second, is_cached=True)
    pool.release(first, is_cached=True)
    pool.release(third, is_cached=False)
    assert [pool.allocate() for _ in range(3)] == [third, second, first]


def test_releasing_more_often_than_holding_is_a_bug():
    pool = BlockPool(1)
    with pytest.raises(AssertionError):
        pool.release(0, is_cached=False)
