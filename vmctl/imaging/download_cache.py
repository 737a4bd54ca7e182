"""The cache of downloads: whole files by digest, what is known of URLs, and what is under way.

::

    downloads/            private to the user
      files/SHA256        whole files, read-only
      urls/KEY.json       what a URL led to
      KEY.part            a download under way, or left by a client that was killed
      KEY.json            what the server said of it
      KEY.lock            held by whoever is downloading

KEY is the SHA-256 of the URL without its credentials. All of it may be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from vmctl.errors import ResourceError

__all__ = ["DownloadCache", "Known", "PartState"]

_OLD = 7 * 24 * 3600.0
_POLL = 0.1
_Record = TypeVar("_Record", "PartState", "Known")


@dataclass(frozen=True, kw_only=True)
class PartState:
    """What the server said of a file that is under way."""

    etag: str = ""
    last_modified: str = ""
    total: int | None = None

    @property
    def validator(self) -> str:
        """What ``If-Range`` may say: a strong ETag, else the date (RFC 9110, 13.1.5)."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else ""
        return strong or self.last_modified


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a URL led to.

    Attributes:
        url: For people, without credentials.
        digests: Of the file, by algorithm, in hexadecimal.
        when: Nanoseconds since the epoch.
    """

    url: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    etag: str = ""
    last_modified: str = ""
    when: int = 0


class DownloadCache:
    """A folder of downloads; made when it is not there.

    Args:
        folder: None: ``$XDG_CACHE_HOME/vmctl/downloads``.

    Raises:
        ResourceError: It can't be made or written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        self.folder = folder or Path(cache).expanduser() / "vmctl" / "downloads"
        try:
            for one in (self.folder, self.folder / "files", self.folder / "urls"):
                one.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ResourceError(
                f"can't write the cache {self.folder}: {error.strerror}",
                hint="set XDG_CACHE_HOME to a folder that this user may write",
            ) from error

    def file(self, sha256: str) -> Path:
        """Where the file with this digest is, or would be."""
        return self.folder / "files" / sha256

    def slot(self, url: str) -> Slot:
        """Return the place of a URL."""
        parts = urlsplit(url)
        plain = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
        return Slot(self, hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest())

    def slots(self) -> list[Slot]:
        """Return the places of all URLs that anything is known of, or under way."""
        keys = {path.name.partition(".")[0] for path in self.folder.glob("*.*")}
        keys |= {path.name.partition(".")[0] for path in self.folder.glob("urls/*.*")}
        return [Slot(self, key) for key in sorted(keys) if key]

    def tidy(self) -> None:
        """Remove what was left more than a week ago by clients that were killed."""
        old = time.time() - _OLD
        for pattern in ("*.part", "*.lock", "urls/*.part"):
            for path in self.folder.glob(pattern):
                with suppress(OSError):
                    if path.stat().st_mtime < old:
                        self._remove(path)

    def _remove(self, path: Path) -> None:
        key = path.name.partition(".")[0]
        if not key:  # a record that was not renamed any more
            path.unlink()
            return
        slot = Slot(self, key)
        with slot.locked(wait=False) as mine:
            if mine:
                slot.discard()


class Slot:
    """The place of one URL in the cache."""

    def __init__(self, cache: DownloadCache, key: str) -> None:
        self._cache = cache
        self.part = cache.folder / f"{key}.part"
        self._state = cache.folder / f"{key}.json"
        self._lock = cache.folder / f"{key}.lock"
        self._known = cache.folder / "urls" / f"{key}.json"

    @contextmanager
    def locked(
        self, waiting: Callable[[int], None] | None = None, *, wait: bool = True
    ) -> Iterator[bool]:
        """Hold the lock; ``waiting`` is told how many bytes somebody else has so far.

        A lock of the kernel's: it ends with its holder, however that ends.
        """
        handle = self._take(waiting, wait=wait)
        try:
            yield handle is not None
        finally:
            if handle is not None:
                # Removed while it is held: whoever opened it before sees that it is gone.
                self._lock.unlink(missing_ok=True)
                os.close(handle)

    def _take(self, waiting: Callable[[int], None] | None, *, wait: bool) -> int | None:
        while True:
            handle = os.open(
                self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same(handle, self._lock):
                    return handle
            except BlockingIOError:
                if not wait:
                    os.close(handle)
                    return None
                if waiting is not None:
                    waiting(self.size())
                time.sleep(_POLL)
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)

    def size(self) -> int:
        """Bytes that are there so far."""
        with suppress(OSError):
            return self.part.stat().st_size
        return 0

    def state(self) -> PartState:
        """What the server said of what is there so far."""
        return _load(self._state, PartState)

    def begin(self, state: PartState) -> None:
        """Remember what the server said, before the first byte is written."""
        _save(self._state, asdict(state))

    def discard(self) -> None:
        """Remove what is there so far."""
        self.part.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove what is there so far, and what the URL led to."""
        self.discard()
        self._known.unlink(missing_ok=True)

    def known(self) -> Known:
        """What the URL led to the last time."""
        return _load(self._known, Known)

    def keep(self, known: Known) -> Path:
        """Make the part a file of the cache, for good."""
        target = self._cache.file(known.digests["sha256"])
        with self.part.open("rb") as handle:
            os.fsync(handle.fileno())
        self.part.chmod(0o400)
        self.part.replace(target)
        _sync(target.parent)
        self.remember(known)
        self._state.unlink(missing_ok=True)
        return target

    def remember(self, known: Known) -> None:
        """Write down what the URL led to."""
        _save(self._known, asdict(known))


def _same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _save(path: Path, data: dict[str, Any]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _load(path: Path, kind: type[_Record]) -> _Record:
    """Read a record; one that is damaged or not there is an empty one."""
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return kind()
