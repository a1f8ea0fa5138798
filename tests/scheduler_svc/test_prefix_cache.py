from scheduler_svc.paging.prefix_cache import PrefixCache, chain_hash, root_hash
from shared.cached_blocks import CachedBlocks


def chain(salt, *blocks):
    hashes, parent = [], root_hash(salt)
    for tokens in blocks:
        parent = chain_hash(parent, tokens)
        hashes.append(parent)
    return hashes


def test_the_longest_cached_prefix_is_found():
    cache = PrefixCache()
    hashes = chain("", b"aaaa", b"bbbb", b"cccc")
    cache.publish(hashes[0], 7)
    cache.publish(hashes[1], 3)
    assert cache.match(hashes) == [7, 3]


def test_a_block_counts_only_with_everything_before_it():
    assert chain("", b"aaaa", b"bbbb")[1] != chain("", b"xxxx", b"bbbb")[1]


def test_another_salt_shares_nothing():
    cache = PrefixCache()
    cache.publish(chain("alice", b"aaaa")[0], 1)
    assert cache.match(chain("bob", b"aaaa")) == []


def test_the_worker_is_told_once_of_what_still_stands():
    cache = PrefixCache()
    hashes = chain("", b"aaaa", b"bbbb", b"cccc")
    for block, block_hash in enumerate(hashes):
        cache.publish(block_hash, block)
    cache.forget(1)
    assert list(cache.take_untold()) == [(0, hashes[0]), (2, hashes[2])]
    assert list(cache.take_untold()) == []
    cache.check()


def test_what_the_worker_has_told_is_found_and_not_told_back():
    hashes = chain("", b"aaaa", b"bbbb")
    cache = PrefixCache(CachedBlocks.of([(5, hashes[0]), (2, hashes[1]), (7, hashes[1])]))
    assert cache.match(hashes) == [5, 2]
    assert list(cache) == [5, 2]
    assert list(cache.take_untold()) == []
    cache.check()


def test_a_forgotten_block_ends_the_match():
    cache = PrefixCache()
    hashes = chain("", b"aaaa", b"bbbb")
    cache.publish(hashes[0], 0)
    cache.publish(hashes[1], 1)
    cache.forget(0)
    assert cache.match(hashes) == []
    assert 1 in cache
    cache.check()


def test_a_second_copy_of_the_same_prefix_is_not_entered():
    cache = PrefixCache()
    (block_hash,) = chain("", b"aaaa")
    cache.publish(block_hash, 0)
    cache.publish(block_hash, 1)
    assert cache.match([block_hash]) == [0]
    assert 1 not in cache
    cache.check()
