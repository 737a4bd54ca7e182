"""Events: libvirt's numbers put into words, a queue that is bounded, and streams of them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

import vmctl
from vmctl.hypervisor import event_kinds
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.event_kinds import EventKind, decode
from vmctl.hypervisor.subscriptions import Subscription

from ..cli.conftest import RECORD, host_with

K = EventKind


class Handle:
    def name(self) -> str:
        return "m"

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        return RECORD.uuid


@pytest.mark.parametrize(
    ("number", "details", "kind", "detail"),
    [
        (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, (0, 1), K.DEFINED, "updated"),
        (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, (3, 2), K.SUSPENDED, "I/O error"),
        (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, (5, 1), K.STOPPED, "destroyed"),
        (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, (6, 1), K.SHUTDOWN, "guest request"),
        (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, (8, 0), K.CRASHED, "panicked"),
        (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, (5, 99), K.STOPPED, "number 99"),
        (libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, (), K.REBOOT, ""),
        (libvirt.VIR_DOMAIN_EVENT_ID_WATCHDOG, (2,), K.WATCHDOG, "reset"),
        (
            libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON,
            ("/a.qcow2", "virtio-disk0", 1, "enospc"),
            K.IO_ERROR,
            "/a.qcow2: enospc, pause",
        ),
        (libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, (1, 2), K.AGENT_CONNECTED, "channel"),
        (
            libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
            (2, 1),
            K.AGENT_DISCONNECTED,
            "domain started",
        ),
        (
            libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
            ("vda", 4, 3),
            K.BLOCK_JOB,
            "vda: active commit ready",
        ),
        (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, ("net1",), K.DEVICE_ADDED, "net1"),
        (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, ("net1",), K.DEVICE_REMOVED, "net1"),
        (
            libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED,
            ("net1",),
            K.DEVICE_REMOVAL_FAILED,
            "net1",
        ),
        (libvirt.VIR_DOMAIN_EVENT_ID_TRAY_CHANGE, ("scsi0", 0), K.TRAY, "scsi0: open"),
        (libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, (4096,), K.BALLOON, "4096 KiB"),
        (libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, (2, "urn:x"), K.METADATA, "urn:x"),
        (libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE, (1, None), K.METADATA, "title"),
    ],
)
def test_numbers_become_words(
    number: int, details: tuple[Any, ...], kind: EventKind, detail: str
) -> None:
    event = decode(number, Handle(), details)
    assert event is not None
    assert (event.kind, event.detail, event.name, event.uuid) == (kind, detail, "m", RECORD.uuid)
    assert len(event.raw) == len(details)


def test_what_a_newer_libvirt_says_is_left_out() -> None:
    assert decode(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, Handle(), (99, 0)) is None
    assert decode(libvirt.VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, Handle(), (9, 0)) is None


def test_every_kind_has_somebody_who_says_it() -> None:
    said = {kind for kind, _ in event_kinds._LIFECYCLE} | set(event_kinds._AGENT.values())
    said |= {K.REBOOT, K.WATCHDOG, K.IO_ERROR, K.BLOCK_JOB, K.TRAY, K.BALLOON, K.METADATA}
    said |= {K.DEVICE_ADDED, K.DEVICE_REMOVED, K.DEVICE_REMOVAL_FAILED}
    assert set(EventKind) == said | event_kinds.ALWAYS_TOLD


def test_the_reference_has_every_kind() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "events.md"
    rows = re.findall(r"^\| `([\w-]+)` \|", page.read_text().partition("## Kinds")[2], re.MULTILINE)
    assert rows == list(EventKind)


@pytest.fixture
def connection(tmp_path: Any) -> Iterator[Connection]:
    made = Connection(host_with(RECORD, tmp_path)[1])
    yield made
    made.close()


def test_a_full_queue_loses_the_oldest_and_says_how_many(connection: Connection) -> None:
    listener = Subscription(connection, lambda event: event.kind is K.BALLOON, capacity=3)
    for number in range(10):
        listener.put(event_kinds.synthetic(K.BALLOON, str(number)))
        listener.put(event_kinds.synthetic(K.METADATA))
    taken = [listener.get(0.0) for _ in range(5)]
    assert [event and (event.kind, event.detail) for event in taken] == [
        (K.OVERFLOW, "7 lost"),
        *((K.BALLOON, str(number)) for number in (7, 8, 9)),
        None,
    ]
    listener.close()
    listener.close()


def test_only_while_somebody_listens_libvirt_is_asked_for_more(connection: Connection) -> None:
    assert connection._more == []
    first, second = (Subscription(connection, bool, capacity=1) for _ in range(2))
    assert len(connection._more) == len(event_kinds.MORE_IDS)
    first.close()
    assert connection._more
    second.close()
    assert connection._more == []


def test_a_stream_hears_what_happens_from_its_making_on(tmp_path: Any) -> None:
    with vmctl.connect(host_with(RECORD, tmp_path)[1]) as host:
        vm = host.get("web")
        with host.events("web", timeout=20) as stream, host.events("other", timeout=0.1) as none:
            vm.pause()
            vm.resume()
            assert [next(stream).kind for _ in range(2)] == ["suspended", "resumed"]
            assert list(none) == []
        assert list(stream) == []
        with host.events(kinds=["stopped"], timeout=20) as stream:
            vm.stop(force=True, timeout=0)
            event = next(stream)
            assert (event.kind, event.detail, event.name) == (K.STOPPED, "destroyed", "web")
        with pytest.raises(vmctl.UsageError, match="there is no kind of event") as caught:
            host.events(kinds=["nonsense"])
        assert "stopped" in caught.value.hint


def test_the_stream_of_a_machine_ends_with_it(tmp_path: Any) -> None:
    with vmctl.connect(host_with(RECORD, tmp_path)[1]) as host:
        vm = host.get("web")
        with vm.events(kinds=["undefined"], timeout=20) as stream:
            raw = host._connection.raw.lookupByName("web")
            raw.destroy()
            raw.undefine()
            assert next(stream).kind == K.UNDEFINED
            with pytest.raises(vmctl.NotFoundError, match="'web'"):
                next(stream)
        with vm.events() as stream, pytest.raises(vmctl.NotFoundError):
            next(stream)


def test_a_function_is_called_until_it_is_closed(tmp_path: Any) -> None:
    heard: list[vmctl.Event] = []
    called = threading.Semaphore(0)

    def callback(event: vmctl.Event) -> None:
        # It may call vmctl.
        heard.append(event)
        host.get(event.name).info()
        called.release()

    with vmctl.connect(host_with(RECORD, tmp_path)[1]) as host:
        vm = host.get("web")
        with host.on_event(callback, kinds=["suspended"]) as listener:
            vm.pause()
            vm.resume()
            vm.pause()
            assert called.acquire(timeout=20)
            assert called.acquire(timeout=20)
        vm.resume()
        vm.pause()
        assert (len(heard), listener.error) == (2, None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_function_that_fails_is_called_no_more(tmp_path: Any) -> None:
    def callback(event: vmctl.Event) -> None:
        raise RuntimeError(event.kind)

    with vmctl.connect(host_with(RECORD, tmp_path)[1]) as host:
        vm = host.get("web")
        listener = host.on_event(callback)
        vm.pause()
        listener._thread.join(20)
        assert isinstance(listener.error, RuntimeError)
        assert not host._connection.events.has_listeners
        listener.close()


def test_closing_a_host_ends_who_waits_for_events(tmp_path: Any) -> None:
    host = vmctl.connect(host_with(RECORD, tmp_path)[1])
    stream = host.events()
    found: list[list[vmctl.Event]] = []
    waiter = threading.Thread(target=lambda: found.append(list(stream)))
    waiter.start()
    host.on_event(print)
    host.close()
    waiter.join(20)
    assert found == [[]]
    assert not [t for t in threading.enumerate() if t.name == "vmctl-listener"]
    stream.close()


def test_a_lost_connection_is_told_once_and_mended_by_who_listens(connection: Connection) -> None:
    listener = Subscription(connection, bool, capacity=10)
    connection._on_close(object(), 0, None)
    assert listener.get(0.0) is None
    connection._on_close(connection._raw, 0, None)
    kinds = [event.kind for event in (listener.get(None), listener.get(None)) if event]
    assert kinds == [K.CONNECTION_LOST, K.CONNECTION_REGAINED]
    domain = Domain(connection, RECORD.uuid, "web")
    domain.suspend()
    event = listener.get(None)
    assert event is not None
    assert event.kind is K.SUSPENDED
    listener.close()


def test_what_was_over_before_is_not_heard_afterwards() -> None:
    connection = Connection("test:///default")
    try:
        raw = connection.raw.lookupByName("test")
        for _ in range(30):
            raw.destroy()
            raw.create()
            connection.catch_up()
            with connection.events.listening(raw.UUIDString()) as heard:
                connection.catch_up()
                assert not heard.saw_start
        with connection.events.listening(raw.UUIDString()) as heard:
            raw.destroy()
            raw.create()
            connection.catch_up()
            assert heard.saw_start
    finally:
        connection.close()
