"""Vectors without a model: a function of the prompt's tokens alone, so that a lost or misplaced one shows."""

from collections.abc import Sequence
from hashlib import blake2b

from shared.packing import pack_f32, pack_u32
from shared.sampling import Pooling

FAKE_HIDDEN_SIZE = 16


def fake_embedding(tokens: Sequence[int], pooling: Pooling) -> bytes:
    """What a `FakeRunner` tells of this prompt: f32 [FAKE_HIDDEN_SIZE], each in [-1, 1]."""
    digest = blake2b(pack_u32(tokens), digest_size=FAKE_HIDDEN_SIZE, salt=bytes([pooling])).digest()
    return pack_f32(byte / 127.5 - 1 for byte in digest)
