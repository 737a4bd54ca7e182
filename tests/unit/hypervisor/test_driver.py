"""The hypervisor layer on libvirt's own test driver: a real driver without a hypervisor."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import libvirt
import pytest

from vmctl.errors import (
    ConflictError,
    HostUnavailableError,
    HypervisorError,
    NotFoundError,
    PermissionDeniedError,
    ResourceError,
    UnsupportedError,
    VmctlError,
    WaitTimeoutError,
    WrongStateError,
)
from vmctl.gc import collect
from vmctl.hypervisor import domains, names, networks, runs, saves, snapshots
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.domains import State
from vmctl.hypervisor.errors import translate
from vmctl.hypervisor.facts import read_facts
from vmctl.hypervisor.metadata import Phase, Record
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.reasons import reason_word, state_and_reason
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.listing import list_machines
from vmctl.render.snapshot import render_snapshot
from vmctl.render.volume import render_volume

UUID = "11111111-2222-3333-4444-555555555555"
_DEFAULT_URI = "test:///default"
RECORD = Record(
    uuid=UUID, phase=Phase.READY, created="2026-01-01T00:00:00+00:00", spec={"name": "m"}
)


@pytest.fixture
def connection() -> Iterator[Connection]:
    # All connections of a process share one test driver.
    made = Connection(_DEFAULT_URI)
    yield made
    made.close()
    with libvirt.open(_DEFAULT_URI) as raw:
        for domain in raw.listAllDomains():
            if domain.name() == "m":
                if domain.isActive():
                    domain.destroy()
                domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)


def define(
    connection: Connection,
    name: str = "m",
    uuid: str = UUID,
    *,
    record: Record = RECORD,
    metadata: str | None = None,
) -> domains.Domain:
    xml = (
        f"<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>65536</memory>"
        f"<os><type>hvm</type></os><metadata>{metadata or record.to_xml()}</metadata></domain>"
    )
    return names.define(connection, xml, name=name, uuid=uuid)


def test_define_reserves_the_name(connection: Connection) -> None:
    domain = define(connection)
    assert domain.state() is State.SHUT_OFF
    with pytest.raises(ConflictError, match="there is a machine 'm' already"):
        define(connection, uuid=UUID.replace("1", "9"))
    assert names.find(connection, "m").uuid == UUID
    assert names.find(connection, UUID).name == "m"


def test_power_states(connection: Connection) -> None:
    domain = define(connection)
    domain.start()
    assert domain.state() is State.RUNNING
    domain.suspend()
    assert domain.state() is State.PAUSED
    domain.resume()
    domain.destroy()
    domain.destroy()
    assert domain.state() is State.SHUT_OFF
    assert not domain.is_active()


def test_a_domain_that_is_gone(connection: Connection) -> None:
    domain = define(connection)
    domain.raw().undefine()
    assert not domain.exists()
    with pytest.raises(NotFoundError, match="there is no machine 'm'"):
        domain.state()
    with pytest.raises(NotFoundError, match="there is no machine 'm'"):
        names.find(connection, "m")


def test_record_is_read_written_and_listed(connection: Connection) -> None:
    domain = define(connection)
    assert domain.record() == RECORD
    changed = domain.update_record(phase=Phase.DELETING)
    assert domain.record() == changed == replace(RECORD, phase=Phase.DELETING)
    domain.start()
    domain.update_record(phase=Phase.READY)
    listed = {entry.domain.name: entry for entry in names.list_domains(connection)}
    assert (listed["m"].state, listed["m"].record) == (State.RUNNING, RECORD)
    # The driver comes with a domain of its own, which is not vmctl's.
    assert listed["test"].record is None
    with pytest.raises(ConflictError, match="was not made by vmctl"):
        listed["test"].domain.update_record(phase=Phase.READY)


def test_a_copy_of_a_machine_is_not_the_owner_of_its_volumes(connection: Connection) -> None:
    """As virt-clone makes it: another name and UUID, and the same metadata."""
    other = UUID.replace("1", "7")
    record = replace(RECORD, uuid=other)
    domain = define(connection, record=record)
    assert domain.record() is None
    with pytest.raises(ConflictError, match="was not made by vmctl"):
        domain.update_record(phase=Phase.DELETING)


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ('phase="ready"', 'phase="hibernating"'),
        ("<spec>", '<volume pool="p" name="n" role="tape"/><spec>'),
        ('{"name":"m"}', "{"),
        ('{"name":"m"}', "[]"),
    ],
)
def test_a_record_of_a_newer_vmctl_is_one_error_and_hides_no_other_machine(
    connection: Connection, was: str, becomes: str
) -> None:
    text = RECORD.to_xml()
    assert was in text
    domain = define(connection, metadata=text.replace(was, becomes))
    with pytest.raises(ConflictError, match="record of the machine 'm' can't be read") as caught:
        domain.record()
    assert "newer vmctl" in caught.value.hint
    listed = {entry.domain.name: entry for entry in names.list_domains(connection)}
    assert (listed["m"].readable, listed["m"].record) == (False, None)
    assert listed["test"].readable
    lines = {line.name: line for line in list_machines(connection, details=True)}
    assert lines["m"].phase == "unreadable"
    assert collect(connection, dry_run=False) == []


def test_the_time_of_a_start_is_that_of_this_run(connection: Connection) -> None:
    domain = define(connection)
    assert runs.running_since(domain) is None
    domain.start()
    assert runs.running_since(domain) is None
    runs.note_start(domain)
    since = runs.running_since(domain)
    assert since is not None
    assert abs((datetime.now(UTC) - since).total_seconds()) < 60
    # As a snapshot brings it back: of a run before this one.
    for text in ("<run id='99' started='2026-01-01T00:00:00+00:00'/>", "<run id='1'/>", "<run/>"):
        domain.raw().setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            text,
            "vmctl-run",
            "urn:vmctl:run:1",
            libvirt.VIR_DOMAIN_AFFECT_LIVE,
        )
        assert runs.running_since(domain) is None
    assert domain.record() == RECORD
    assert not saves.has_saved_state(domain)


def test_why_a_domain_is_in_its_state(connection: Connection) -> None:
    domain = define(connection)
    domain.start()
    assert state_and_reason(domain) == (State.RUNNING, "booted")
    domain.suspend()
    assert state_and_reason(domain) == (State.PAUSED, "user")
    domain.destroy()
    assert state_and_reason(domain) == (State.SHUT_OFF, "destroyed")
    assert reason_word(State.SHUT_OFF, 99) == reason_word(State.SUSPENDED, 0) == ""


def test_an_event_wakes_who_waits(connection: Connection) -> None:
    domain = define(connection)
    heard = threading.Event()
    looks: list[bool | None] = []

    def wait() -> None:
        with connection.events.listening(domain.uuid) as signal:

            def is_active() -> bool | None:
                active = domain.is_active()
                # From here on only an event can make it look again before the recheck.
                heard.set()
                return active or None

            looks.append(signal.wait_for(is_active, deadline=time.monotonic() + 60, recheck=60))

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert heard.wait(10)
    domain.start()
    # Long before the recheck.
    waiter.join(20)
    assert looks == [True]


def test_keepalive_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        libvirt.virConnect, "setKeepAlive", lambda _self, *numbers: asked.append(numbers)
    )
    Connection(_DEFAULT_URI).close()
    ((seconds, count),) = asked
    assert 0 < seconds * count <= 60


def test_a_host_that_says_nothing_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vmctl.hypervisor.connection._FIRST_OPENING_SECONDS", 0.5)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{folder}/s")
        silent.listen()
        with pytest.raises(HostUnavailableError, match=r"did not answer within 0\.5 s") as caught:
            Connection(f"qemu+unix:///system?socket={folder}/s")
        assert caught.value.hint
    # When it is gone, so is who waits for it.
    left = [entry for entry in threading.enumerate() if entry.name == "vmctl-opening"]
    for thread in left:
        thread.join(20)
        assert not thread.is_alive()


def test_pool_and_volumes(connection: Connection) -> None:
    pool = open_pool(connection, "default-pool")
    volume = StoredVolume.of(pool, "v")
    volume.create(render_volume("v", capacity=1 << 20, format="raw"))
    assert volume.path() == pool.path_of("v")
    assert volume.facts().capacity == 1 << 20
    assert pool.names() == ["v"]
    assert volume.delete()
    assert not volume.delete()
    assert not volume.exists()
    with pytest.raises(NotFoundError, match="there is no volume 'v' in the pool 'default-pool'"):
        volume.facts()
    with pytest.raises(NotFoundError, match="there is no storage pool 'nope'"):
        open_pool(connection, "nope")


def test_networks(connection: Connection) -> None:
    assert [entry.name for entry in networks.list_networks(connection)] == ["default"]
    networks.ensure_active(connection, "default")
    networks.stop_unused(connection, "default")
    assert not networks.is_active(connection, "default")
    networks.stop_unused(connection, "default")
    networks.ensure_active(connection, "default")
    assert networks.is_active(connection, "default")
    for ask in (networks.ensure_active, networks.is_active):
        with pytest.raises(NotFoundError, match="there is no network 'nope'") as caught:
            ask(connection, "nope")
        assert caught.value.hint.startswith("there is default; or use user-mode")
    networks.stop_unused(connection, "nope")


def test_a_state_that_does_not_allow_something_says_what_would(connection: Connection) -> None:
    domain = define(connection)
    # libvirt's test driver gives no code of its own for it.
    error = domain._wrong_state(Fault(libvirt.VIR_ERR_OPERATION_INVALID))
    assert isinstance(error, WrongStateError)
    assert (error.state, error.hint) == ("shut off", "start it: `vmctl start m`")


def test_snapshots(connection: Connection) -> None:
    domain = define(connection)
    taken = snapshots.create(domain, render_snapshot("a", description="<&>"), name="a")
    assert (taken.name, taken.state, taken.description) == ("a", "shut off", "<&>")
    with pytest.raises(ConflictError):
        snapshots.create(domain, render_snapshot("a"), name="a")
    snapshots.create(domain, render_snapshot("b"), name="b")
    assert [entry.name for entry in snapshots.list_snapshots(domain)] == ["a", "b"]
    snapshots.revert(domain, "a")
    snapshots.delete(domain, "b")
    with pytest.raises(NotFoundError, match="has no snapshot 'b'"):
        snapshots.revert(domain, "b")


def test_facts_of_a_driver_that_knows_little(connection: Connection) -> None:
    facts = read_facts(connection)
    assert not facts.kvm
    assert facts.libvirt_version >= (8, 0, 0)
    assert facts.memory == 3 << 30
    assert facts.firmware == ()


def test_nobody_there() -> None:
    with pytest.raises(HostUnavailableError) as caught:
        Connection("qemu+unix:///system?socket=/nowhere/sock")
    assert caught.value.hint


def test_a_closed_connection_says_so(connection: Connection) -> None:
    connection.close()
    connection.close()
    with pytest.raises(HostUnavailableError, match="is closed"):
        names.list_domains(connection)


class Fault(libvirt.libvirtError):  # type: ignore[misc]
    """An error of libvirt's with chosen codes: some can't be produced by the test driver."""

    def __init__(self, code: int, *, domain: int = 0, int1: int = 0) -> None:
        super().__init__("fault")
        self.err = (code, domain, "text", 2, None, None, None, int1, 0)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(libvirt.VIR_ERR_NO_DOMAIN), NotFoundError),
        (Fault(libvirt.VIR_ERR_NO_STORAGE_VOL), NotFoundError),
        (Fault(libvirt.VIR_ERR_STORAGE_VOL_EXIST), ConflictError),
        (Fault(libvirt.VIR_ERR_RESOURCE_BUSY), ConflictError),
        (Fault(libvirt.VIR_ERR_OPERATION_INVALID), WrongStateError),
        (Fault(libvirt.VIR_ERR_AUTH_FAILED), PermissionDeniedError),
        (Fault(libvirt.VIR_ERR_NO_CONNECT), HostUnavailableError),
        (
            Fault(libvirt.VIR_ERR_INTERNAL_ERROR, domain=libvirt.VIR_FROM_RPC),
            HostUnavailableError,
        ),
        (
            Fault(libvirt.VIR_ERR_SYSTEM_ERROR, domain=libvirt.VIR_FROM_RPC, int1=13),
            PermissionDeniedError,
        ),
        (Fault(libvirt.VIR_ERR_SYSTEM_ERROR, int1=28), ResourceError),
        (Fault(libvirt.VIR_ERR_SYSTEM_ERROR, int1=5), HypervisorError),
        (Fault(libvirt.VIR_ERR_CONFIG_UNSUPPORTED), UnsupportedError),
        (Fault(libvirt.VIR_ERR_OPERATION_TIMEOUT), WaitTimeoutError),
        (Fault(libvirt.VIR_ERR_INTERNAL_ERROR), HypervisorError),
    ],
)
def test_codes_are_mapped_to_the_tree(fault: libvirt.libvirtError, kind: type[VmctlError]) -> None:
    error = translate(fault, "do it")
    assert type(error) is kind
    assert (error.brief, bool(error.hint)) == ("could not do it", True)
    assert "text" in error.details
