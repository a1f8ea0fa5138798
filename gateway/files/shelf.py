"""Files by their names, in chunks, on the archive."""

import time
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from gateway.storage.stored_objects import new_id
from shared.archive import Archive
from shared.errors import NotFoundError, RequestTooLargeError

MIN_TTL_S: Final = 3600
MAX_TTL_S: Final = 30 * 24 * 3600
"""OpenAI's bounds of `expires_after`; files of batches live for the longest unless told otherwise."""

CHUNK_BYTES: Final = 256 * 1024
"""Of one write: larger ones would hold up the tokens of others, for Redis does one thing at a time."""

_UPLOAD_TTL_S: Final = 600.0
"""How long a file that is never completed stays."""

_PAGE: Final = 100


class FileObject(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's file object."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    object: str = "file"
    status: str = "processed"


class FilePage(msgspec.Struct, frozen=True):
    """Some files."""

    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class FileShelf:
    """Owns the archive of files. A file is seen only once it is complete, and never changes.

    Args:
        max_file_bytes: Of one file.
    """

    def __init__(self, archive: Archive, *, max_file_bytes: int) -> None:
        self._archive = archive
        self._max_file_bytes = max_file_bytes

    async def add(
        self, filename: str, purpose: str, chunks: AsyncIterator[bytes], *, ttl_s: int = MAX_TTL_S
    ) -> FileObject:
        """Keep a file.

        Args:
            filename: What its owner calls it.
            purpose: "batch" or "batch_output".
            chunks: Its content; none longer than `CHUNK_BYTES`.
            ttl_s: How long.

        Raises:
            RequestTooLargeError: it is larger than a file may be.
            StorageFullError: it does not fit beside the others.
        """
        created_at = int(time.time())
        file = FileObject(
            id=new_id("file-"),
            bytes=0,
            created_at=created_at,
            expires_at=created_at + ttl_s,
            filename=filename,
            purpose=purpose,
        )
        claim = await self._archive.create(file.id, _encode(file), ttl_s=_UPLOAD_TTL_S, is_listed=False)
        num_parts = num_bytes = 0
        try:
            async for chunk in chunks:
                num_bytes += len(chunk)
                if num_bytes > self._max_file_bytes:
                    raise RequestTooLargeError(
                        f"'file' is larger than {self._max_file_bytes} bytes", param="file", code="file_too_large"
                    )
                await self._archive.update(claim, parts=[chunk], num_parts=num_parts)
                num_parts += 1
            file = msgspec.structs.replace(file, bytes=num_bytes)
            await self._archive.update(claim, document=_encode(file), ttl_s=ttl_s, is_listed=True)
        except BaseException:
            await self._archive.delete(file.id)
            raise
        return file

    async def find(self, file_id: str) -> FileObject:
        """What is known of a file.

        Raises:
            NotFoundError: there is none of this id.
        """
        data = await self._archive.read(file_id)
        if data is None:
            raise NotFoundError(f"No such File object: {file_id}", param="id")
        return _decode(data)

    async def page(self, *, after: str | None, limit: int, newest_first: bool, purpose: str | None) -> FilePage:
        """Files in the order of their creation, of one purpose or all.

        Raises:
            NotFoundError: there is no file `after` which to begin.
        """
        found: list[FileObject] = []
        has_more = True
        while has_more and len(found) <= limit:
            documents, has_more = await self._archive.page(after=after, limit=_PAGE, newest_first=newest_first)
            files = [_decode(document) for document in documents]
            found += [file for file in files if purpose in {None, file.purpose}]
            after = files[-1].id if files else None
        page = found[:limit]
        first, last = (page[0].id, page[-1].id) if page else (None, None)
        return FilePage(page, first, last, len(found) > limit)

    async def chunks(self, file_id: str) -> AsyncIterator[bytes]:
        """A file's content. It ends early if the file is deleted meanwhile."""
        start = 0
        while chunk := await self._archive.parts(file_id, start, limit=1):
            start += 1
            yield chunk[0]

    async def lines(self, file_id: str) -> AsyncIterator[bytes]:
        """A file's lines, without their ends."""
        rest = b""
        async for chunk in self.chunks(file_id):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line
        if rest:
            yield rest

    async def delete(self, file_id: str) -> None:
        """Forget a file.

        Raises:
            NotFoundError: there is none of this id.
        """
        if not await self._archive.delete(file_id):
            raise NotFoundError(f"No such File object: {file_id}", param="id")


def _encode(file: FileObject) -> bytes:
    return msgspec.msgpack.encode(file)


_decode = msgspec.msgpack.Decoder(FileObject).decode
