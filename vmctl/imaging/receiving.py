"""One file over HTTP into a part file: in as many answers as it takes."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable
from typing import BinaryIO, TypeVar

from vmctl.errors import ImageError, ResourceError
from vmctl.imaging.download_cache import Known, PartState, Slot
from vmctl.imaging.http import Answer, InterruptedTransferError, Limits, Web, file_name, shown
from vmctl.progress import Phase

__all__ = ["Receiver", "persistently"]

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_MIB = 1024 * 1024
# Of a file whose size is not known, so many bytes are worth a word.
_WORTH_SAYING = 16 * _MIB
_HINT_SERVER = "try again later, or name another mirror"
_Result = TypeVar("_Result")


def persistently(
    action: Callable[[], _Result], limits: Limits, *, size: Callable[[], int] = lambda: 0
) -> _Result:
    """Do it again when it breaks off, for as long as it gets further.

    Where nothing can be reached at all from the start, once is enough.

    Args:
        action: What to do.
        limits: How often.
        size: How far it is, in bytes.

    Raises:
        VmctlError: What the last attempt says.
    """
    failures, furthest, began = 0, size(), size()
    while True:
        try:
            return action()
        except InterruptedTransferError as broken:
            here = size()
            failures += 1
            if here >= furthest + limits.least:
                failures = 1
            furthest = max(furthest, here)
            if failures >= limits.attempts or (broken.unreachable and here <= began):
                raise broken.error from None
            time.sleep(limits.pause * 2 ** (failures - 1))


class Receiver:
    """Fills a part file.

    Args:
        web: The client.
        slot: The part file's place, whose lock the caller holds.
        url: Where the file is.
        limits: What the server may cost.
        phase: Told how far it is.
        checked: Whether a checksum is compared afterwards. If none is, a file is put together from
            several answers only if the server says that they are of one file.

    Attributes:
        patched: Whether the file was put together from several answers.
    """

    def __init__(
        self,
        web: Web,
        slot: Slot,
        url: str,
        *,
        limits: Limits,
        phase: Phase | None,
        checked: bool,
    ) -> None:
        self._web = web
        self._slot = slot
        self._url = url
        self._limits = limits
        self._phase = phase
        self._checked = checked
        self._name = file_name(url)
        self.patched = False

    def receive(self, unless: Known | None = None) -> PartState | None:
        """Return when the part file is whole, with what the server said of it.

        Args:
            unless: What is there already; if that is still what the server has, nothing is
                fetched and None is returned.

        Raises:
            NotFoundError: There is no such file.
            ImageError: It can't be had, or not whole.
            ResourceError: There is no room for it.
        """
        self.patched = False
        return persistently(lambda: self._ask(unless), self._limits, size=self._slot.size)

    def _ask(self, unless: Known | None) -> PartState | None:
        state, offset = self._slot.state(), self._slot.size()
        headers: dict[str, str] = {}
        if offset and self._checked and offset == state.total:
            self.patched = True
            return state  # it was whole when its client was killed; the checksum is what decides
        if offset and (state.validator or self._checked):
            headers["Range"] = f"bytes={offset}-"
            if state.validator:
                headers["If-Range"] = state.validator
        elif unless is not None:
            headers |= {"If-None-Match": unless.etag} if unless.etag else {}
            headers |= {"If-Modified-Since": unless.last_modified} if not unless.etag else {}
        with self._web.get(self._url, headers) as answer:
            if answer.status == 200:
                return self._whole(answer)
            if answer.status == 304 and unless is not None and "Range" not in headers:
                return None
            if answer.status in {206, 416} and "Range" in headers:
                return self._rest(answer, state, offset)
            # An answer to what was not asked.
            raise self._odd(f"the server answers {answer.status} to what was not asked")

    def _whole(self, answer: Answer) -> PartState:
        """The file from its beginning, whatever is there so far."""
        if not self._checked and not answer.framed:
            raise ImageError(
                f"the server of {shown(self._url)} does not say how long the file is",
                hint="give the file's SHA-256: nothing else would show that it was cut off",
            )
        self._slot.discard()
        self.patched = False
        headers = answer.headers
        state = PartState(
            etag=headers.get("etag", ""),
            last_modified=headers.get("last-modified", ""),
            total=answer.length,
        )
        self._slot.begin(state)
        self._write(answer, 0, answer.length)
        return state

    def _rest(self, answer: Answer, state: PartState, offset: int) -> PartState:
        """What is missing of the file, if that is what the server sends."""
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
        start, total = (match[1], match[3]) if match else (None, "")
        if answer.status == 416:
            if state.validator and state.total == offset and total in {str(offset), "", "*"}:
                return state
            self._slot.discard()
            raise self._odd("the server has no more of it than is here")
        fits = start == str(offset) and (
            total == "*" or state.total is None or total == str(state.total)
        )
        if not fits:
            self._slot.discard()
            raise self._odd("the server sends another part than was asked for")
        self.patched = True
        known = int(total) if total.isdigit() else state.total
        self._write(answer, offset, known)
        return state

    def _write(self, answer: Answer, offset: int, total: int | None) -> None:
        self._refuse_without_room(offset, total)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(self._slot.part, flags, 0o600), "wb", buffering=0) as part:
                part.truncate(offset)
                part.seek(offset)
                count = self._copy(answer, part, offset, total)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            self._slot.discard()
            raise self._full() from error
        if total is not None and count < total:
            raise self._odd(f"it broke off after {count} of {total} bytes")

    def _copy(self, answer: Answer, part: BinaryIO, offset: int, total: int | None) -> int:
        count = marked = offset
        since = time.monotonic()
        largest = min(total if total is not None else self._limits.max_size, self._limits.max_size)
        for piece in answer.pieces():
            count += len(piece)
            if count > largest:
                self._slot.discard()
                raise self._too_large(f"more than {largest}")
            _write_all(part, piece)
            self._report(count, total)
            now = time.monotonic()
            if now - since > self._limits.slow:
                if count - marked < self._limits.least:
                    raise self._odd(f"the server sends hardly anything, {count} bytes so far")
                since, marked = now, count
        return count

    def _report(self, count: int, total: int | None) -> None:
        if self._phase is None:
            return
        if total:
            self._phase.update(f"downloading {self._name}", count / total)
        else:
            told = count // _WORTH_SAYING * _WORTH_SAYING // _MIB
            self._phase.update(f"downloading {self._name}: {told} MiB so far")

    def _refuse_without_room(self, offset: int, total: int | None) -> None:
        if total is None:
            return
        if total > self._limits.max_size:
            self._slot.discard()
            raise self._too_large(str(total))
        if shutil.disk_usage(self._slot.part.parent).free < total - offset:
            self._slot.discard()
            raise self._full()

    def _too_large(self, size: str) -> ImageError:
        return ImageError(
            f"{shown(self._url)} is too large: {size} bytes",
            details=f"the limit is {self._limits.max_size} bytes",
            hint="see whether the URL leads to what you mean",
        )

    def _full(self) -> ResourceError:
        return ResourceError(
            f"there is no room for {self._name} in {self._slot.part.parent}",
            hint="make room there, or set XDG_CACHE_HOME to a folder with more of it",
        )

    def _odd(self, details: str) -> InterruptedTransferError:
        return InterruptedTransferError(
            ImageError(f"can't get all of {shown(self._url)}", details=details, hint=_HINT_SERVER)
        )


def _write_all(part: BinaryIO, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[part.write(view) :]
