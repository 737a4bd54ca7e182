"""A log that grows, and is cut over into older parts by its writer, read as one text.

virtlogd renames NAME to NAME.0 when it gets too long, that to NAME.1 and so on, and goes on with a
new NAME (``max_size`` and ``max_backups`` of virtlogd.conf).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vmctl.errors import NotFoundError, VmctlError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.pools import Pool, open_pool
from vmctl.hypervisor.volumes import StoredVolume

__all__ = ["GrowingLog", "older_parts"]

# What was read last, by which a part is known again after it was renamed.
_MARK = 256
# The most that is read at once.
_PIECE = 1 << 20


def older_parts(pool: Pool, volume: str) -> list[str]:
    """Return the names of the older parts that are kept, the latest first."""
    pool.refresh()
    prefix = f"{volume}."
    numbers = sorted(
        int(name[len(prefix) :])
        for name in pool.names()
        if name.startswith(prefix) and name[len(prefix) :].isdigit()
    )
    return [f"{prefix}{number}" for number in numbers]


def _size(pool: Pool, volume: str) -> int | None:
    try:
        return StoredVolume.of(pool, volume).facts().capacity
    except NotFoundError:
        return None


@dataclass(frozen=True)
class _Place:
    """How far the newest part was read, and what stands before that place."""

    offset: int = 0
    mark: bytes = b""

    def after(self, piece: bytes) -> _Place:
        """Return the place behind a piece that was read here."""
        return _Place(self.offset + len(piece), (self.mark + piece)[-_MARK:])


class GrowingLog:
    """Reads a log from one place on, across its older parts.

    Args:
        connection: The host; it may be lost between two reads.
        pool: The pool.
        volume: The newest part's name.
    """

    def __init__(self, connection: Connection, pool: str, volume: str) -> None:
        self._connection = connection
        self._pool_name = pool
        self._pool: Pool | None = None
        self._volume = volume
        self._place = _Place()
        # Whether the place is in what was the newest part when it was last seen.
        self._in_newest = True
        # Otherwise: whether all older parts were read, while the newest one was still empty.
        self._drained = False

    def read(self) -> Iterator[bytes]:
        """Yield what came since the last time, in pieces.

        Raises:
            NotFoundError: The log is gone, with its machine.
            HostUnavailableError: The host can't be reached; it can be called again.
        """
        if self._pool is None:
            self._pool = open_pool(self._connection, self._pool_name)
        pool, place = self._pool, self._place
        size = _size(pool, self._volume)
        if size is None:
            # It is renamed first, and made anew then.
            if not older_parts(pool, self._volume):
                raise NotFoundError(
                    f"the console log '{self._volume}' is gone",
                    hint="it goes with its machine; `vmctl list` shows what there is",
                )
            return
        if self._in_newest:
            if size == place.offset:
                return
            grown = size > place.offset
            if grown and (not place.mark or self._is_here(pool, self._volume)):
                yield from self._read_on(pool, self._volume)
                return
        elif self._drained and not size:
            return
        self._in_newest = False
        yield from self._read_older(pool)
        self._drained = not self._in_newest

    def _read_on(self, pool: Pool, volume: str) -> Iterator[bytes]:
        while True:
            left = (_size(pool, volume) or 0) - self._place.offset
            if left <= 0:
                return
            log = StoredVolume.of(pool, volume)
            piece = log.read(start=self._place.offset, length=min(left, _PIECE))
            if not piece:
                return
            self._place = self._place.after(piece)
            yield piece

    def _read_older(self, pool: Pool) -> Iterator[bytes]:
        """Yield the rest of the part that was read last, and all of those that came after it."""
        parts = older_parts(pool, self._volume)
        here = next((i for i, name in enumerate(parts) if self._is_here(pool, name)), None)
        if here is not None:
            yield from self._read_on(pool, parts[here])
        # Without it, that part is gone already, and some of the log is lost.
        for name in (*reversed(parts[:here]), self._volume):
            # The place is that of the last part until there is something to know the next one by.
            if not _size(pool, name):
                continue
            before, self._place = self._place, _Place()
            try:
                yield from self._read_on(pool, name)
            finally:
                if self._place.mark:
                    self._in_newest = name == self._volume
                else:
                    self._place = before

    def _is_here(self, pool: Pool, volume: str) -> bool:
        mark = self._place.mark
        if not mark:
            return False
        try:
            begin = self._place.offset - len(mark)
            return StoredVolume.of(pool, volume).read(start=begin, length=len(mark)) == mark
        except VmctlError:
            # It is shorter than that, or was removed just now.
            return False
