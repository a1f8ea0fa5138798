"""Where a gateway keeps what outlives a request."""

from typing import NamedTuple

from gateway.settings import GatewaySettings
from shared.archive import Archive, Kind
from shared.memory_archive import MemoryArchive
from shared.redis_archive import RedisArchive


class Archives(NamedTuple):
    """One per kind. Whoever makes them closes them."""

    responses: Archive
    files: Archive
    batches: Archive
    streams: Archive

    @classmethod
    def on_redis(cls, settings: GatewaySettings) -> "Archives":
        """Those all gateways of a pool share. Of responses and streams the oldest give way; files and batches stay."""
        url, pool, max_file_bytes = settings.redis_url, settings.pool, settings.max_file_store_bytes
        return cls(
            RedisArchive(url, pool, Kind.RESPONSE, max_bytes=settings.max_response_store_bytes, drops_oldest=True),
            RedisArchive(url, pool, Kind.FILE, max_bytes=max_file_bytes),
            RedisArchive(url, pool, Kind.BATCH, max_bytes=max_file_bytes),
            RedisArchive(url, pool, Kind.STREAM, max_bytes=settings.max_stream_store_bytes, drops_oldest=True),
        )

    @classmethod
    def in_memory(cls, settings: GatewaySettings) -> "Archives":
        """Those of one process, for as long as it runs."""
        max_file_bytes = settings.max_file_store_bytes
        return cls(
            MemoryArchive(max_bytes=settings.max_response_store_bytes, drops_oldest=True),
            MemoryArchive(max_bytes=max_file_bytes),
            MemoryArchive(max_bytes=max_file_bytes),
            MemoryArchive(max_bytes=settings.max_stream_store_bytes, drops_oldest=True),
        )

    async def close(self) -> None:
        """Release the connections."""
        for archive in self:
            await archive.close()
