"""The archive on Redis, 6.2 or newer."""

from shared.redis_archive.archive import RedisArchive

__all__ = ["RedisArchive"]
