"""HTTP for downloads: what is asked, what may be answered, and what went wrong in one sentence."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from vmctl._version import __version__
from vmctl.errors import ImageError, NotFoundError, UnsupportedError, UsageError, VmctlError
from vmctl.imaging.certificates import certificate_error

if TYPE_CHECKING:
    import httpx

__all__ = [
    "LIMITS",
    "Answer",
    "InterruptedTransferError",
    "Limits",
    "Web",
    "check_url",
    "file_name",
    "shown",
]

_REDIRECTS = {301, 302, 303, 307, 308}
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_LIST = 1024**2
_HINT_NETWORK = (
    "check the network, and the proxy in HTTPS_PROXY; or fetch the file elsewhere and import it"
)
_HINT_SERVER = "try again later, or name another mirror"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server may cost. Times are in seconds, sizes in bytes.

    Attributes:
        connect: For a connection, with TLS.
        stall: Between two pieces of an answer.
        slow: Time in which at least ``least`` bytes have to come.
        least: See ``slow``.
        attempts: How often in a row a transfer may break off without having got any further.
        pause: Before the second attempt; doubled before each later one.
        redirects: How many in a row are followed.
        max_size: The largest file.
    """

    connect: float = 15.0
    stall: float = 60.0
    slow: float = 120.0
    least: int = 64 * 1024
    attempts: int = 5
    pause: float = 1.0
    redirects: int = 10
    max_size: int = 256 * 1024**3


LIMITS = Limits()


class InterruptedTransferError(Exception):
    """A transfer that may be taken up again.

    Attributes:
        error: What to say when it isn't.
        unreachable: Whether no connection came about at all.
    """

    def __init__(self, error: VmctlError, *, unreachable: bool = False) -> None:
        super().__init__(error.brief)
        self.error = error
        self.unreachable = unreachable


def shown(url: str) -> str:
    """Write a URL for people: without credentials, and without a query, which may be one."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "..." if parts.query else "", ""))


def file_name(url: str) -> str:
    """Return the last part of a URL's path."""
    return PurePosixPath(unquote(urlsplit(url).path)).name or "image"


def check_url(url: str) -> None:
    """Refuse what is no HTTP or HTTPS URL.

    Raises:
        UsageError: It isn't one.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good or not url.isprintable():
        what = url.partition(":")[0][:20] if url.isprintable() else "it"
        raise UsageError(
            f"can't fetch from a URL of the kind {what!r}",
            hint="give a URL that begins with https:// or http://, or import the file by its path",
        )


@dataclass(frozen=True)
class Answer:
    """A response whose body has not been read yet.

    Attributes:
        status: 200, 206, 304 or 416.
        headers: Names in lower case.
        length: Bytes of the body, where the server says so.
        framed: Whether the end of the body can be told from a connection that broke.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    length: int | None
    framed: bool
    _response: httpx.Response

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as the server sent it: a content coding is not undone.

        Raises:
            InterruptedTransferError: It broke off or stalled.
        """
        import httpx  # noqa: PLC0415 - slow to load

        try:
            yield from self._response.iter_raw()
        except httpx.HTTPError as error:
            raise _interrupted(error, self.url) from None


class Web:
    """An HTTP client for one download; closed at the end of its ``with`` block.

    Proxies are taken from the environment (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``,
    ``NO_PROXY``), certificates from the machine's own store.
    """

    def __init__(self, limits: Limits = LIMITS) -> None:
        import httpx  # noqa: PLC0415 - slow to load

        self._limits = limits
        times = httpx.Timeout(limits.stall, connect=limits.connect)
        headers = {"Accept-Encoding": "identity", "User-Agent": f"vmctl/{__version__}"}
        try:
            self._client = httpx.Client(
                timeout=times, headers=headers, verify=_trusted(), follow_redirects=False
            )
        except ImportError:
            raise UnsupportedError(
                "can't use the proxy that the environment names: SOCKS needs one more package",
                hint="install socksio beside vmctl, or unset ALL_PROXY",
            ) from None
        except (ValueError, httpx.InvalidURL):
            raise UsageError(
                "the environment names a proxy that is no URL of one",
                hint="set HTTPS_PROXY and ALL_PROXY to http://HOST:PORT, or unset them",
            ) from None

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Iterator[Answer]:
        """Ask for a URL, and follow redirects.

        A redirect is followed from https to https alone, and carries credentials only to the same
        server.

        Raises:
            UsageError: It is no HTTP URL.
            NotFoundError: There is nothing (any more).
            ImageError: The server refuses, or redirects in a loop or to where it must not.
            InterruptedTransferError: No answer came, or one that says to try again.
        """
        check_url(url)
        here, auth = _without_credentials(url)
        origin = _origin(here)
        for _ in range(self._limits.redirects + 1):
            response = self._send(here, headers, auth if _origin(here) == origin else None)
            try:
                if response.status_code not in _REDIRECTS:
                    yield _answer(response, here)
                    return
                here = _next(here, response.headers.get("location", ""))
            finally:
                response.close()
        raise ImageError(
            f"{shown(url)} is redirected more than {self._limits.redirects} times",
            details=f"the last one led to {shown(here)}",
            hint=_HINT_SERVER,
        )

    def text(self, url: str) -> str:
        """Return a small text file, such as a list of checksums.

        Raises:
            ImageError: It is larger than 1 MiB; or as for `get`.
        """
        body = bytearray()
        with self.get(url) as answer:
            for piece in answer.pieces():
                body += piece
                if len(body) > _LONGEST_LIST:
                    raise ImageError(
                        f"{shown(url)} is larger than 1 MiB and no list of checksums",
                        hint="name the list of checksums, not the image",
                    )
        return body.decode("utf-8", "replace")

    def _send(
        self, url: str, headers: Mapping[str, str] | None, auth: tuple[str, str] | None
    ) -> httpx.Response:
        import httpx  # noqa: PLC0415 - slow to load

        try:
            request = self._client.build_request("GET", url, headers=headers)
        except (httpx.InvalidURL, UnicodeError):
            raise UsageError(
                f"{shown(url)} is not a URL", hint="give a URL that begins with https://"
            ) from None
        try:
            return self._client.send(request, stream=True, auth=auth)
        except httpx.InvalidURL:
            # httpx reads where a redirect leads to even when it does not follow it.
            raise _stray(url, "nowhere", "a URL that is none") from None
        except httpx.HTTPError as error:
            raise _interrupted(error, url) from None


def _trusted() -> ssl.SSLContext | bool:
    """The machine's own certificates, among which a site's own may be; httpx's when it has none."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    return context if context.get_ca_certs() or paths.capath or paths.cafile else True


def _without_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    name, _, password = user.partition(":")
    return parts._replace(netloc=host).geturl(), (unquote(name), unquote(password))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def _next(here: str, location: str) -> str:
    there = urljoin(here, location)
    before, after = urlsplit(here).scheme, urlsplit(there).scheme
    if not location or after not in {"http", "https"} or (before == "https" and after == "http"):
        raise _stray(here, after or "nowhere", shown(there)[:200])
    return _without_credentials(there)[0]


def _stray(here: str, scheme: str, there: str) -> ImageError:
    return ImageError(
        f"{shown(here)} is redirected to where vmctl does not follow",
        details=f"it leads from {urlsplit(here).scheme} to {scheme}: {there}",
        hint="name another mirror, one that answers over https",
    )


def _answer(response: httpx.Response, url: str) -> Answer:
    status = response.status_code
    if status not in {200, 206, 304, 416}:
        raise _refusal(status, response.reason_phrase, url)
    length = response.headers.get("content-length", "")
    chunked = "chunked" in response.headers.get("transfer-encoding", "").lower()
    known = int(length) if length.isascii() and length.isdigit() and not chunked else None
    return Answer(url, status, response.headers, known, chunked or known is not None, response)


def _refusal(status: int, reason: str, url: str) -> Exception:
    said = f"{status} {reason[:60]}".strip()
    if status in {404, 410}:
        return NotFoundError(
            f"there is no file at {shown(url)}",
            details=f"the server says {said}",
            hint="check the URL; the file may have been moved or replaced by a newer one",
        )
    if status in {401, 403, 407}:
        return ImageError(
            f"the server of {shown(url)} refuses: {said}",
            hint="check the URL, and the credentials in it or in the proxy's URL",
        )
    error = ImageError(f"the server of {shown(url)} fails: {said}", hint=_HINT_SERVER)
    return InterruptedTransferError(error) if status in _TRY_AGAIN else error


def _interrupted(error: httpx.HTTPError, url: str) -> InterruptedTransferError:
    import httpx  # noqa: PLC0415 - slow to load

    host = urlsplit(url).netloc.rpartition("@")[2]
    hint = _HINT_NETWORK
    if (refused := certificate_error(error, host)) is not None:
        return InterruptedTransferError(refused, unreachable=True)
    if isinstance(error, httpx.ConnectTimeout):
        brief = f"can't reach {host}: no connection in time"
    elif isinstance(error, httpx.ProxyError):
        brief = f"can't reach {host}: the proxy refuses"
    elif isinstance(error, httpx.ConnectError):
        brief = f"can't reach {host}: {_reason(error)}"
    elif isinstance(error, httpx.TimeoutException):
        brief, hint = f"{host} stalls: it has sent nothing for too long", _HINT_SERVER
    else:
        brief, hint = f"the transfer of {shown(url)} broke off", _HINT_SERVER
    unreachable = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError)
    return InterruptedTransferError(ImageError(brief, hint=hint), unreachable=unreachable)


def _reason(error: Exception) -> str:
    """What the system says: `Connection refused`, without its number, and never with a URL."""
    text = str(error).partition("] ")[2] or str(error)
    return text.partition(" (_ssl")[0].rstrip(".")[:120] or "no connection"
