"""Downloads from a real server on loopback that misbehaves."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.http_server import Server
from vmctl.errors import ImageError, NotFoundError, ResourceError, UsageError, VmctlError
from vmctl.imaging.checksums import Checksum
from vmctl.imaging.download import Fetched, Source, fetch
from vmctl.imaging.download_cache import DownloadCache
from vmctl.imaging.http import Limits
from vmctl.progress import Phase, Progress

BODY = random.Random(1).randbytes(300_000)  # noqa: S311
OTHER = random.Random(2).randbytes(300_000)  # noqa: S311
SHA256 = hashlib.sha256(BODY).hexdigest()
SHA512 = hashlib.sha512(BODY).hexdigest()
CLIENT = """
import sys
from pathlib import Path
from vmctl.imaging.checksums import Checksum
from vmctl.imaging.download import Source, fetch
got = fetch(Source(url=sys.argv[1], checksum=Checksum.parse(sys.argv[2])), cache=Path(sys.argv[3]))
print(got.path, got.sha256)
"""


def checked(server: Server, path: str = "/disk") -> Source:
    return Source(url=server.url(path), checksum=Checksum("sha256", SHA256))


def unverified(server: Server, path: str = "/disk") -> Source:
    return Source(url=server.url(path), unverified=True)


def client(source: Source, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, source.url, str(source.checksum), str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left(cache: Path) -> set[str]:
    """The files of the cache, without what is known of URLs."""
    return {
        str(path.relative_to(cache))
        for path in cache.rglob("*")
        if path.is_file() and path.parent.name != "urls"
    }


def is_right(got: Fetched, cache: Path) -> bool:
    return got.path.read_bytes() == BODY and left(cache) == {f"files/{SHA256}"}


def test_a_file_is_fetched_and_kept_for_the_user_alone(
    server: Server, cache: Path, limits: Limits
) -> None:
    server.page("/disk", BODY)
    reports: list[Progress] = []
    phase = Phase("web", "image", reports.append)
    got = fetch(checked(server), phase=phase, cache=cache, limits=limits)
    assert is_right(got, cache)
    assert (got.sha256, got.verified_by) == (SHA256, "the sha256 that was given")
    assert got.verified
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(got.path.stat().st_mode) == 0o400
    told = [report.fraction for report in reports if report.detail == "downloading disk"]
    assert told[-1] == 1.0
    assert told == sorted(told, key=lambda fraction: fraction or 0)


def test_the_second_time_costs_nothing(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY)
    first = fetch(checked(server), cache=cache, limits=limits)
    server.pages.clear()
    assert fetch(checked(server), cache=cache, limits=limits) == first
    assert fetch(checked(server, "/mirror"), cache=cache, limits=limits).path == first.path
    assert len(server.requests) == 1


def test_a_changed_file_of_the_cache_is_fetched_anew(
    server: Server, cache: Path, limits: Limits
) -> None:
    server.page("/disk", BODY)
    got = fetch(checked(server), cache=cache, limits=limits)
    got.path.chmod(0o600)
    got.path.write_bytes(OTHER)
    assert is_right(fetch(checked(server), cache=cache, limits=limits), cache)


def test_a_published_list_of_checksums(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/i/disk.qcow2", BODY)
    server.page("/i/SHA512SUMS", f"{SHA512}  disk.qcow2\n".encode())
    source = Source(url=server.url("/i/disk.qcow2"), checksum_url=server.url("/i/SHA512SUMS"))
    got = fetch(source, cache=cache, limits=limits)
    assert is_right(got, cache)
    assert got.verified_by == f"the sha512 in {server.url('/i/SHA512SUMS')}"
    # The list is asked for again, the image is not.
    assert fetch(source, cache=cache, limits=limits) == got
    assert len(server.asked("/i/SHA512SUMS")) == 2
    assert len(server.asked("/i/disk.qcow2")) == 1
    # Until the list has another digest.
    server.page("/i/disk.qcow2", OTHER)
    other = hashlib.sha512(OTHER).hexdigest()
    server.page("/i/SHA512SUMS", f"{other}  disk.qcow2\n".encode())
    assert fetch(source, cache=cache, limits=limits).path.read_bytes() == OTHER


@pytest.mark.parametrize("text", [b"", b"<html>", b"0" * 2 * 1024**2])
def test_a_list_that_is_none(server: Server, cache: Path, limits: Limits, text: bytes) -> None:
    server.page("/disk", BODY)
    server.page("/SUMS", text)
    source = Source(url=server.url("/disk"), checksum_url=server.url("/SUMS"))
    with pytest.raises(ImageError):
        fetch(source, cache=cache, limits=limits)
    assert not server.asked("/disk")


def test_nothing_is_taken_unverified_unless_that_was_said(
    server: Server, cache: Path, limits: Limits
) -> None:
    server.page("/disk", BODY)
    with pytest.raises(UsageError, match="there is no checksum for"):
        fetch(Source(url=server.url("/disk")), cache=cache, limits=limits)
    assert not server.requests
    got = fetch(unverified(server), cache=cache, limits=limits)
    assert (got.verified, got.verified_by) == (False, "nothing")
    # Asked again, and the server says that it has not changed.
    sent = server.sent["/disk"]
    assert fetch(unverified(server), cache=cache, limits=limits) == got
    assert server.asked("/disk")[1]["if-none-match"] == '"one"'
    assert server.sent["/disk"] == sent
    server.page("/disk", OTHER, etag='"two"')
    assert fetch(unverified(server), cache=cache, limits=limits).path.read_bytes() == OTHER


def test_a_wrong_checksum(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", OTHER)
    with pytest.raises(ImageError, match="has the wrong checksum") as caught:
        fetch(checked(server), cache=cache, limits=limits)
    assert SHA256 in caught.value.details
    assert hashlib.sha256(OTHER).hexdigest() in caught.value.details
    assert len(server.requests) == 1
    assert left(cache) == set()


@pytest.mark.parametrize("source", [checked, unverified])
def test_a_transfer_that_breaks_off_is_taken_up_again(
    server: Server, cache: Path, limits: Limits, source: object
) -> None:
    server.page("/disk", BODY, cut=[100_000, 100_000])
    assert callable(source)
    assert is_right(fetch(source(server), cache=cache, limits=limits), cache)
    assert server.sent["/disk"] == len(BODY)
    ranges = [headers.get("range") for headers in server.asked("/disk")]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_a_truncated_download_is_never_used(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY, cut=[5000] + [0] * 10)
    with pytest.raises(ImageError, match="broke off"):
        fetch(checked(server), cache=cache, limits=limits)
    assert not any(name.startswith("files/") for name in left(cache))
    # What came stays for the next time.
    server.pages["/disk"].cut = []
    assert is_right(fetch(checked(server), cache=cache, limits=limits), cache)
    assert server.sent["/disk"] == len(BODY)


def test_a_server_that_ignores_ranges(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY, ranges=False, cut=[100_000])
    assert is_right(fetch(checked(server), cache=cache, limits=limits), cache)
    assert server.asked("/disk")[1]["range"] == "bytes=100000-"
    assert server.sent["/disk"] == 100_000 + len(BODY)


def test_a_server_that_sends_another_range(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY, shift=7, cut=[100_000])
    assert is_right(fetch(checked(server), cache=cache, limits=limits), cache)


@pytest.mark.parametrize("etag", ['"two"', ""])
def test_a_file_that_changes_on_the_way(
    server: Server, cache: Path, limits: Limits, etag: str
) -> None:
    """With an ETag the server says so; without one the checksum does, and it is fetched anew."""
    server.page("/disk", OTHER, cut=[100_000, 0, 0], etag='"one"' if etag else "")
    with pytest.raises(ImageError):
        fetch(checked(server), cache=cache, limits=limits)
    server.page("/disk", BODY, etag=etag)
    assert is_right(fetch(checked(server), cache=cache, limits=limits), cache)


def test_without_validator_and_checksum_nothing_is_pieced_together(
    server: Server, cache: Path, limits: Limits
) -> None:
    server.page("/disk", BODY, etag="", cut=[100_000])
    assert is_right(fetch(unverified(server), cache=cache, limits=limits), cache)
    assert server.sent["/disk"] == 100_000 + len(BODY)


def test_a_server_that_stalls(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY, stall=0)
    with pytest.raises(ImageError, match=r"127\.0\.0\.1:\d+ stalls"):
        fetch(checked(server), cache=cache, limits=replace(limits, stall=0.1))


def test_a_server_that_stalls_now_and_then(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY, stall=150_000)
    short = replace(limits, stall=0.2, attempts=5)
    assert is_right(fetch(checked(server), cache=cache, limits=short), cache)


def test_a_server_that_drips(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY)
    slow = replace(limits, slow=0.0, least=10**9)
    with pytest.raises(ImageError, match="can't get all") as caught:
        fetch(checked(server), cache=cache, limits=slow)
    assert "hardly anything" in caught.value.details


def test_chunks_without_a_length(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY, chunked=True, cut=[100_000])
    assert is_right(fetch(unverified(server), cache=cache, limits=limits), cache)


def test_neither_length_nor_end_is_said(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY, unframed=True)
    with pytest.raises(ImageError, match="does not say how long the file is"):
        fetch(unverified(server), cache=cache, limits=limits)
    assert is_right(fetch(checked(server), cache=cache, limits=limits), cache)
    server.page("/cut", BODY, unframed=True, cut=[100_000])
    source = replace(checked(server, "/cut"), checksum=Checksum("sha256", "0" * 64))
    with pytest.raises(ImageError, match="wrong checksum"):
        fetch(source, cache=cache, limits=limits)


def test_a_wrong_length(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY, length=len(BODY) + 10)
    with pytest.raises(ImageError, match="broke off|can't get all"):
        fetch(unverified(server), cache=cache, limits=limits)
    assert not any(name.startswith("files/") for name in left(cache))


def test_too_large_is_refused_before_and_while_it_comes(
    server: Server, cache: Path, limits: Limits
) -> None:
    small = replace(limits, max_size=200_000)
    server.page("/disk", BODY)
    server.page("/chunks", BODY, chunked=True)
    for path in ("/disk", "/chunks"):
        with pytest.raises(ImageError, match="is too large"):
            fetch(checked(server, path), cache=cache, limits=small)
        assert left(cache) == set()


def test_no_room(
    server: Server, cache: Path, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.page("/disk", BODY)
    usage = shutil.disk_usage(cache.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ResourceError, match="no room for disk"):
        fetch(checked(server), cache=cache, limits=limits)
    assert left(cache) == set()


def test_redirects(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY)
    server.page("/latest", location="/next")
    server.page("/next", location=server.url("/disk"))
    assert is_right(fetch(checked(server, "/latest"), cache=cache, limits=limits), cache)


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/disk", "gopher:x"])
def test_a_redirect_to_something_else(
    server: Server, cache: Path, limits: Limits, where: str
) -> None:
    server.page("/disk", location=where)
    with pytest.raises(ImageError, match="is redirected to where vmctl does not follow"):
        fetch(checked(server), cache=cache, limits=limits)


def test_a_redirect_in_a_loop(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", location="/other")
    server.page("/other", location="/disk")
    with pytest.raises(ImageError, match="is redirected more than 10 times"):
        fetch(checked(server), cache=cache, limits=limits)
    assert len(server.requests) == 11


@pytest.mark.parametrize(
    ("status", "kind", "count"),
    [(404, NotFoundError, 1), (410, NotFoundError, 1), (403, ImageError, 1), (500, ImageError, 3)],
)
def test_what_the_server_says(
    server: Server,
    cache: Path,
    limits: Limits,
    status: int,
    kind: type[VmctlError],
    count: int,
) -> None:
    server.page("/disk", status=status)
    with pytest.raises(kind) as caught:
        fetch(checked(server), cache=cache, limits=limits)
    assert str(status) in str(caught.value)
    assert len(server.requests) == count
    assert left(cache) == set()


def test_an_overloaded_server_is_asked_again(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY, statuses=[503, 429])
    assert is_right(fetch(checked(server), cache=cache, limits=limits), cache)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/a", "disk.qcow2", "http://", ""])
def test_only_http(url: str, cache: Path) -> None:
    with pytest.raises(UsageError, match="can't fetch from a URL"):
        fetch(Source(url=url, unverified=True), cache=cache)


def test_checksums_of_https_do_not_come_over_http(cache: Path) -> None:
    source = Source(url="https://h.invalid/a", checksum_url="http://h.invalid/SUMS")
    with pytest.raises(UsageError, match="would come over http"):
        fetch(source, cache=cache)


def test_offline_is_one_sentence(server: Server, cache: Path) -> None:
    server.server_close()
    with pytest.raises(ImageError, match=r"can't reach 127\.0\.0\.1:\d+: Connection refused"):
        fetch(checked(server), cache=cache)  # with the usual limits: nothing is waited for


def test_credentials_are_used_and_never_shown(
    server: Server, cache: Path, limits: Limits, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    user = base64.b64encode(b"joe:p@ss-word").decode()
    server.page("/disk", BODY, user=user)
    url = server.url("/disk?token=t0ken").replace("//", "//joe:p%40ss-word@")
    server.pages["/disk?token=t0ken"] = server.pages.pop("/disk")
    source = Source(url=url, checksum=Checksum("sha256", SHA256))
    got = fetch(source, cache=cache, limits=limits)
    assert is_right(got, cache)
    server.pages["/disk?token=t0ken"].user = "other"
    with pytest.raises(ImageError) as caught:
        fetch(replace(source, checksum=Checksum("sha256", "0" * 64)), cache=cache, limits=limits)
    kept = "".join(path.read_text() for path in (cache / "urls").iterdir())
    names = " ".join(map(str, cache.rglob("*")))
    everything = [kept, names, repr(source), str(source), repr(got), str(caught.value)]
    assert not [text for text in everything if "ss-word" in text or "t0ken" in text]
    assert "ss-word" not in caplog.text


def test_credentials_stay_with_their_server(server: Server, cache: Path, limits: Limits) -> None:
    from tests.http_server import serving

    with serving() as other:
        other.page("/disk", BODY)
        server.page("/disk", location=other.url("/disk"))
        url = server.url("/disk").replace("//", "//joe:secret@")
        fetch(Source(url=url, checksum=Checksum("sha256", SHA256)), cache=cache, limits=limits)
        assert "authorization" in server.asked("/disk")[0]
        assert "authorization" not in other.asked("/disk")[0]


def test_a_proxy_of_the_environment(
    server: Server, cache: Path, limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url(""))
    server.page("http://images.invalid/disk", BODY)
    source = Source(url="http://images.invalid/disk", checksum=Checksum("sha256", SHA256))
    assert is_right(fetch(source, cache=cache, limits=limits), cache)
    monkeypatch.setenv("HTTP_PROXY", "nonsense://")
    with pytest.raises(UsageError, match="names a proxy"):
        fetch(replace(source, checksum=Checksum("sha256", "0" * 64)), cache=cache, limits=limits)


def test_threads_share_one_download(server: Server, cache: Path, limits: Limits) -> None:
    page = server.page("/disk", BODY, stall=100_000)
    waits = threading.Event()

    def watch(report: Progress) -> None:
        if "somebody else" in report.detail:
            waits.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, unverified(server), cache=cache, limits=limits)
        assert page.stalled.wait(10)
        phase = Phase("web", "image", watch)
        second = pool.submit(fetch, unverified(server), cache=cache, limits=limits, phase=phase)
        assert waits.wait(10)
        page.go_on.set()
        assert first.result() == second.result()
    assert server.sent["/disk"] == len(BODY)


def test_processes_share_one_download(server: Server, cache: Path) -> None:
    page = server.page("/disk", BODY, stall=100_000)
    clients = [client(checked(server), cache)]
    assert page.stalled.wait(30)
    clients.append(client(checked(server), cache))
    page.go_on.set()
    for process in clients:
        out, err = process.communicate(timeout=60)
        assert out.split() == [str(cache / "files" / SHA256), SHA256], err
    assert server.sent["/disk"] == len(BODY)
    assert left(cache) == {f"files/{SHA256}"}


def test_what_a_killed_client_left_is_taken_up_again(
    server: Server, cache: Path, limits: Limits
) -> None:
    page = server.page("/disk", BODY, stall=200_000)
    waits = threading.Event()

    def watch(report: Progress) -> None:
        if "somebody else" in report.detail:
            waits.set()

    with client(checked(server), cache) as process, ThreadPoolExecutor(1) as pool:
        assert page.stalled.wait(30)
        slot = DownloadCache(cache).slot(server.url("/disk"))
        deadline = time.monotonic() + 30
        while slot.size() < 200_000 and time.monotonic() < deadline:  # what was sent has to arrive
            time.sleep(0.01)
        page.stall = None
        phase = Phase("web", "image", watch)
        mine = pool.submit(fetch, checked(server), cache=cache, limits=limits, phase=phase)
        assert waits.wait(10)
        process.send_signal(signal.SIGKILL)
        assert is_right(mine.result(timeout=30), cache)
    arrived = server.asked("/disk")[1]["range"].removeprefix("bytes=").removesuffix("-")
    assert 200_000 <= int(arrived) < len(BODY)
    # The stalled answer may have had one more piece in hand when its client was killed.
    assert server.sent["/disk"] <= len(BODY) + 4096


def test_a_whole_part_needs_no_server(server: Server, cache: Path, limits: Limits) -> None:
    server.page("/disk", BODY, cut=[len(BODY) - 1, 0, 0])
    with pytest.raises(ImageError):
        fetch(checked(server), cache=cache, limits=limits)
    (part,) = cache.glob("*.part")
    with part.open("ab") as handle:
        handle.write(BODY[-1:])
    before = len(server.requests)
    assert is_right(fetch(checked(server), cache=cache, limits=limits), cache)
    assert len(server.requests) == before


def test_garbage_is_removed_after_a_week(server: Server, cache: Path, limits: Limits) -> None:
    DownloadCache(cache)
    week = time.time() - 8 * 24 * 3600
    for name in ("a.part", "b.part", ".x.part", "urls/.y.part", "c.lock"):
        (cache / name).write_bytes(b"x")
        os.utime(cache / name, (week, week))
    os.utime(cache / "b.part")
    server.page("/disk", BODY)
    fetch(checked(server), cache=cache, limits=limits)
    assert left(cache) == {"b.part", f"files/{SHA256}"}
    assert not list((cache / "urls").glob(".*"))


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="can't write the cache"):
        DownloadCache(tmp_path / "file" / "downloads")
