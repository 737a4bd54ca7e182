"""Downloads: resumed, shared, kept by digest, and never used before they were verified."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from vmctl.errors import ImageError, UsageError
from vmctl.imaging.checksums import Algorithm, Checksum, digests_of, find_in
from vmctl.imaging.download_cache import DownloadCache, Known
from vmctl.imaging.http import LIMITS, Limits, Web, check_url, file_name, shown
from vmctl.imaging.receiving import Receiver, persistently
from vmctl.progress import Phase

__all__ = ["Fetched", "Source", "fetch"]

_MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to fetch, and what says whether it is the right one.

    Attributes:
        url: Where it is; a user and a password in it are never shown.
        checksum: What it has to be. It goes before ``checksum_url``.
        checksum_url: A list of checksums that has it by its name.
        checksum_kind: The one algorithm of that list to use; None: the strongest.
        unverified: That it is wanted although nothing says what it has to be.
    """

    url: str = field(repr=False)
    checksum: Checksum | None = None
    checksum_url: str | None = field(default=None, repr=False)
    checksum_kind: Algorithm | None = None
    unverified: bool = False

    def __str__(self) -> str:
        return shown(self.url)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file that was fetched.

    Attributes:
        path: Where it is, in the cache: to be read, never to be changed.
        url: Where it came from, for people: without credentials.
        sha256: Its digest, in hexadecimal.
        verified_by: What says that it is the right file; ``nothing`` when that was asked for.
    """

    path: Path
    url: str
    sha256: str
    verified_by: str

    @property
    def verified(self) -> bool:
        """Whether a checksum was compared."""
        return self.verified_by != "nothing"


def fetch(
    source: Source,
    *,
    phase: Phase | None = None,
    cache: Path | None = None,
    limits: Limits = LIMITS,
) -> Fetched:
    """Fetch a file, or what of it is not in the cache yet.

    What a killed client left is taken up again; of two callers who want the same URL, in any two
    processes, one downloads and the other waits for it.

    Args:
        source: What to fetch.
        phase: Told how far it is.
        cache: Where downloads are kept; None: ``$XDG_CACHE_HOME/vmctl/downloads``.
        limits: What the server may cost.

    Raises:
        UsageError: The URL is none, or there is no checksum and ``unverified`` was not said.
        NotFoundError: There is no such file.
        ImageError: It can't be had, or is not what it has to be.
        ResourceError: There is no room for it.
    """
    _check(source)
    store = DownloadCache(cache)
    store.tidy()
    download = _Download(source, store, limits, phase)
    if found := download.cached(None):
        return found
    with Web(limits) as web:
        return download.run(web)


def _check(source: Source) -> None:
    check_url(source.url)
    if source.checksum is None and source.checksum_url is None and not source.unverified:
        raise UsageError(
            f"there is no checksum for {source}",
            hint="give its SHA-256, or say that you take it unverified",
        )
    if source.checksum is None and source.checksum_url is not None:
        check_url(source.checksum_url)
        if source.url.startswith("https:") and not source.checksum_url.startswith("https:"):
            raise UsageError(
                f"the checksums of {source} would come over http, where anybody can change them",
                hint="give a URL of the checksums that begins with https://, or the checksum",
            )


class _Download:
    """One call of `fetch`."""

    def __init__(
        self, source: Source, store: DownloadCache, limits: Limits, phase: Phase | None
    ) -> None:
        self._source = source
        self._store = store
        self._limits = limits
        self._phase = phase
        self._slot = store.slot(source.url)
        self._name = file_name(source.url)
        self._wanted = source.checksum
        self._by = f"the {source.checksum.algorithm} that was given" if source.checksum else ""

    def cached(self, known: Known | None) -> Fetched | None:
        """Return the wanted file, or with no checksum the known one, if it is there.

        It is read once more: what is in a cache may have been changed there.
        """
        wanted = self._wanted
        sha256 = wanted.value if wanted is not None and wanted.algorithm == "sha256" else ""
        if not sha256 and known is not None:
            sha256 = str(known.digests.get("sha256"))
        path = self._store.file(sha256)
        if not re.fullmatch("[0-9a-f]{64}", sha256) or not path.is_file():
            return None
        digests = digests_of(path, "sha256", *_algorithm(wanted), phase=self._phase)
        if digests["sha256"] != sha256:
            path.unlink(missing_ok=True)
            return None
        return self._fetched(sha256) if wanted is None or wanted.fits(digests) else None

    def run(self, web: Web) -> Fetched:
        """Download the file, unless somebody else does it meanwhile."""
        before = self._slot.known()
        if self._wanted is None and self._source.checksum_url is not None:
            self._wanted = self._published(web, self._source.checksum_url)
        with self._slot.locked(self._waiting):
            known = self._slot.known()
            # With no checksum, what somebody else has fetched just now is as good as ours will be.
            if (self._wanted or known != before) and (found := self.cached(known)):
                return found
            return self._download(web, known)

    def _published(self, web: Web, url: str) -> Checksum:
        if self._phase is not None:
            self._phase.update(f"reading the checksum of {self._name}")
        found = find_in(
            persistently(lambda: web.text(url), self._limits),
            self._name,
            source=shown(url),
            kind=self._source.checksum_kind,
            own=file_name(url).startswith(self._name),
        )
        self._by = f"the {found.algorithm} in {shown(url)}"
        return found

    def _download(self, web: Web, known: Known) -> Fetched:
        old = None
        if self._wanted is None and (known.etag or known.last_modified):
            old = self.cached(known)
        receiver = Receiver(
            web,
            self._slot,
            self._source.url,
            limits=self._limits,
            phase=self._phase,
            checked=self._wanted is not None,
        )
        state = receiver.receive(known if old else None)
        if state is None and old is not None:
            return old
        digests = self._digests()
        if self._wanted is not None and not self._wanted.fits(digests) and receiver.patched:
            # What was put together may be of two different files: once more, from the start.
            self._slot.discard()
            state = receiver.receive()
            digests = self._digests()
        if self._wanted is not None and not self._wanted.fits(digests):
            self._slot.discard()
            raise self._wrong(self._wanted, digests)
        self._slot.keep(
            Known(
                url=shown(self._source.url),
                digests={str(name): digest for name, digest in digests.items()},
                etag=state.etag if state else "",
                last_modified=state.last_modified if state else "",
                when=time.time_ns(),
            )
        )
        return self._fetched(digests["sha256"])

    def _digests(self) -> dict[Algorithm, str]:
        # Of what is on the disk, and not of what came by on its way there.
        algorithms = _algorithm(self._wanted)
        return digests_of(self._slot.part, "sha256", *algorithms, phase=self._phase)

    def _wrong(self, wanted: Checksum, digests: dict[Algorithm, str]) -> ImageError:
        return ImageError(
            f"{self._source} has the wrong checksum",
            details=f"wanted: {wanted}, {self._by}\n"
            f"is:     {wanted.algorithm}:{digests[wanted.algorithm]}",
            hint="don't use it; the file or its checksum has changed, or somebody is in between",
        )

    def _waiting(self, size: int) -> None:
        if self._phase is not None:
            self._phase.update(
                f"somebody else is downloading {self._name}: {size // _MIB} MiB so far"
            )

    def _fetched(self, sha256: str) -> Fetched:
        return Fetched(
            path=self._store.file(sha256),
            url=shown(self._source.url),
            sha256=sha256,
            verified_by=self._by or "nothing",
        )


def _algorithm(wanted: Checksum | None) -> tuple[Algorithm, ...]:
    return () if wanted is None else (wanted.algorithm,)
