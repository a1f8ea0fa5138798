"""Batches by their names. Any gateway answers for any of them."""

from typing import Final

import msgspec

from gateway.batches.batch_object import BatchBody, BatchObject
from gateway.files.shelf import FileShelf
from shared.archive import Archive, Claim
from shared.errors import ClaimLostError, InvalidRequestError, NotFoundError

TTL_S: Final = 30 * 24 * 3600
MAX_BATCHES: Final = 1000
"""Batches that may wait or run in one pool."""


class BatchPage(msgspec.Struct, frozen=True):
    """Some batches, newest first."""

    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


class BatchService:
    """Owns the archive of batches.

    Invariant: a batch that is not over is a job, and whoever holds its claim is working on it.
    """

    def __init__(self, archive: Archive, files: FileShelf) -> None:
        self.archive = archive
        self._files = files

    async def create(self, body: BatchBody) -> tuple[Claim, BatchObject]:
        """Begin a batch, under our claim.

        Raises:
            InvalidRequestError: there is no such input file.
            QueueFullError: too many wait already.
            StorageFullError: it does not fit.
        """
        try:
            await self._files.find(body.input_file_id)
        except NotFoundError as error:
            raise InvalidRequestError(
                f"'input_file_id': {error.message}", param="input_file_id", code="invalid_file"
            ) from error
        batch = BatchObject.begin(body)
        return await self.archive.create(batch.id, batch.encode(), ttl_s=TTL_S, max_jobs=MAX_BATCHES), batch

    async def find(self, batch_id: str) -> BatchObject:
        """A batch as it is now.

        Raises:
            NotFoundError: there is none of this id.
        """
        data = await self.archive.read(batch_id)
        if data is None:
            raise _not_found(batch_id)
        return BatchObject.decode(data)

    async def page(self, *, after: str | None, limit: int) -> BatchPage:
        """Batches, newest first.

        Raises:
            NotFoundError: there is no batch `after` which to begin.
        """
        documents, has_more = await self.archive.page(after=after, limit=limit, newest_first=True)
        batches = [BatchObject.decode(document) for document in documents]
        first, last = (batches[0].id, batches[-1].id) if batches else (None, None)
        return BatchPage(batches, first, last, has_more)

    async def cancel(self, batch_id: str) -> tuple[Claim | None, BatchObject]:
        """Stop a batch: what has been answered is still written, by whoever gets the claim.

        Raises:
            NotFoundError: there is none of this id.
            InvalidRequestError: it is over.
        """
        while True:
            batch = await self.find(batch_id)
            if batch.status == "cancelling":
                return None, batch
            claim = None if batch.is_over else await self.archive.seize(batch_id)
            batch = await self.find(batch_id)  # as it is now that nobody else can change it
            if batch.is_over or claim is None:
                raise InvalidRequestError(f"Cannot cancel a batch with status '{batch.status}'.")
            batch = batch.turned("cancelling")
            try:
                await self.archive.update(claim, document=batch.encode())
            except ClaimLostError:
                continue
            return claim, batch


def _not_found(batch_id: str) -> NotFoundError:
    return NotFoundError(f"No batch found with id '{batch_id}'.", param="batch_id")
