"""The dead letters of the in-memory bus."""

from collections.abc import Iterable

from shared.dead_letters import FiledLetter
from shared.memory_bus.state import PoolState


class MemoryDeadLetterBox:
    """Implements `DeadLetterBox`."""

    def __init__(self, state: PoolState) -> None:
        self._state = state

    async def letters(self, *, limit: int) -> list[FiledLetter]:
        """The newest, the newest first."""
        with self._state.changed:
            newest_first = reversed(self._state.letters.items())
            return [FiledLetter(*item) for item, _ in zip(newest_first, range(limit), strict=False)]

    async def letter(self, letter_id: str) -> FiledLetter | None:
        """One of them."""
        with self._state.changed:
            letter = self._state.letters.get(letter_id)
        return FiledLetter(letter_id, letter) if letter else None

    async def drop(self, letter_ids: Iterable[str]) -> int:
        """Throw them away; says how many there were."""
        with self._state.changed:
            return sum(self._state.letters.pop(letter_id, None) is not None for letter_id in letter_ids)

    async def close(self) -> None:
        """There is nothing to release."""
