"""The doctor: it looks at everything, changes nothing, and never raises."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from vmctl.doctor import Check, client, examine, host
from vmctl.errors import PermissionDeniedError
from vmctl.guest.identity import own_key
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.metadata import Phase, Record
from vmctl.render.facts import FirmwareImage, HostFacts

_UUID = "11111111-2222-3333-4444-555555555555"
_KVM = HostFacts(
    kvm=True,
    kvm_reason="it works",
    emulators={"x86_64": "/usr/bin/qemu-system-x86_64"},
    firmware=(FirmwareImage(loader="/c", nvram_template="/v", secure_boot=True),),
    tpm=True,
)


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("VMCTL_STATE_HOME", str(tmp_path / "state"))
    for name in ("VMCTL_SSH_KEY", "VMCTL_URI", "VMCTL_POOL"):
        monkeypatch.delenv(name, raising=False)


def _by_name(checks: list[Check]) -> dict[str, Check]:
    found = {check.name: check for check in checks}
    assert len(found) == len(checks)
    for check in checks:
        # What isn't well says how to mend it.
        assert check.detail
        assert check.status == "ok" or check.hint, check
    return found


def test_a_host_that_is_well() -> None:
    found = _by_name(examine("test:///default", pool="default-pool"))
    assert {check.status for check in found.values()} == {"ok"}
    assert {"libvirt-python", "daemon", "libvirt", "pool", "network", "leftovers"} <= set(found)


def test_a_pool_that_is_missing() -> None:
    found = _by_name(examine("test:///default", pool="absent"))
    assert found["pool"].status == "fail"
    assert "{name: absent, type: dir, target: " in found["pool"].hint


@pytest.mark.parametrize(
    "uri",
    [
        "qemu+unix:///system?socket=/nowhere",
        "private:absent",
        "private:No Name",
        "nonsense",
        "nonsense:///system",
        "qemu+tcp://127.0.0.1:1/system",
        "qemu://[broken",
        "qemu+ssh://host:port/system",
    ],
)
def test_a_host_that_is_not_there_is_reported(uri: str) -> None:
    found = _by_name(examine(uri))
    assert found["daemon"].status == "fail"
    assert "client-key" in found
    assert "pool" not in found


def _daemon_hint(monkeypatch: pytest.MonkeyPatch, *, installed: bool, socket: bool) -> str:
    monkeypatch.setattr(shutil, "which", lambda name, **_: f"/sbin/{name}" if installed else None)
    here = str(Path(__file__))
    monkeypatch.setattr(host, "_SYSTEM_SOCKETS", (here if socket else "/nowhere",))
    return _by_name(examine("qemu+unix:///system?socket=/nowhere"))["daemon"].hint


def test_a_daemon_is_mended_by_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "apt install" in _daemon_hint(monkeypatch, installed=False, socket=False)
    assert "does not run" in _daemon_hint(monkeypatch, installed=True, socket=False)
    assert "nobody answers" in _daemon_hint(monkeypatch, installed=True, socket=True)


def test_without_the_python_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    found = _by_name(examine("test:///default"))
    assert found["libvirt-python"].status == "fail"
    assert set(found) == {"libvirt-python", "client-key"}


def test_versions() -> None:
    assert host._at_least("qemu", (6, 2, 0), (6, 2, 0)).status == "ok"
    old = host._at_least("libvirt", (7, 9, 0), (8, 0, 0))
    assert old.status == "fail"
    assert "7.9.0" in old.detail


def test_abilities() -> None:
    assert {check.status for check in host._abilities(_KVM)} == {"ok"}
    poor = replace(_KVM, kvm=False, firmware=(), tpm=False, kvm_reason="no vmx")
    found = _by_name(list(host._abilities(poor)))
    assert {check.status for check in found.values()} == {"warn"}
    assert "no vmx" in found["accelerator"].detail
    assert _by_name(list(host._abilities(replace(_KVM, emulators={}))))["emulator"]


def test_tools_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name, **_: None)
    found = _by_name(examine("qemu+unix:///system?socket=/nowhere"))
    assert found["qemu-img"].status == "fail"
    assert found["dnsmasq"].status == "warn"
    assert "dnsmasq" not in _by_name(examine("qemu+unix:///session?socket=/nowhere"))


@pytest.fixture
def raw() -> Iterator[libvirt.virConnect]:
    """All connections of a process share the test driver's default host."""
    with libvirt.open("test:///default") as connection:
        yield connection


def test_a_pool_that_is_not_active(raw: libvirt.virConnect) -> None:
    pool = raw.storagePoolLookupByName("default-pool")
    pool.destroy()
    try:
        found = _by_name(examine("test:///default", pool="default-pool"))["pool"]
    finally:
        pool.create()
    assert (found.status, "pool-autostart default-pool" in found.hint) == ("warn", True)


def test_a_pool_that_is_nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_LITTLE_SPACE", 1 << 60)
    found = _by_name(examine("test:///default", pool="default-pool"))["pool"]
    assert (found.status, "GiB left" in found.detail) == ("warn", True)


def test_a_pool_that_libvirt_can_not_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_pool: libvirt.virStoragePool) -> int:
        raise libvirt.libvirtError("it broke")

    monkeypatch.setattr(libvirt.virStoragePool, "isActive", broken)
    found = _by_name(examine("test:///default", pool="default-pool"))["pool"]
    assert found.status == "warn"


def test_a_network_that_is_not_active_or_not_there(raw: libvirt.virConnect) -> None:
    network = raw.networkLookupByName("default")
    xml = network.XMLDesc()
    network.destroy()
    try:
        found = _by_name(examine("test:///default", pool="default-pool"))["network"]
        assert (found.status, "net-start default" in found.hint) == ("warn", True)
        network.undefine()
        found = _by_name(examine("test:///default", pool="default-pool"))["network"]
        assert (found.status, "user: true" in found.hint) == ("warn", True)
    finally:
        raw.networkDefineXML(xml).create()


def test_what_killed_clients_left(tmp_path: Path) -> None:
    with claimed(60) as claim:
        pass
    record = Record(uuid=_UUID, phase=Phase.CREATING, created="", claim=claim)
    node = tmp_path / "node.xml"
    node.write_text(
        f"<node><domain type='test'><name>half</name><uuid>{_UUID}</uuid><memory>65536</memory>"
        f"<os><type>hvm</type></os><metadata>{record.to_xml()}</metadata></domain></node>"
    )
    found = _by_name(examine(f"test://{node}"))["leftovers"]
    assert (found.status, found.hint) == ("warn", "vmctl gc")
    assert "half" in found.detail


def test_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_uri: str) -> None:
        raise PermissionDeniedError("it refuses this user", hint="ask")

    monkeypatch.setattr("vmctl.hypervisor.connection.Connection.__init__", lambda _s, u: refused(u))
    found = _by_name(examine("qemu:///system"))["daemon"]
    assert (found.status, "usermod -aG libvirt" in found.hint) == ("fail", True)


# -- the client's key -----------------------------------------------------------------------------


def _key() -> Check:
    return _by_name([client.client_key()])["client-key"]


def test_a_key_is_not_made_by_looking(tmp_path: Path) -> None:
    assert _key().status == "ok"
    assert not (tmp_path / "data").exists()


def test_a_key_that_is_there() -> None:
    own_key()
    assert _key().status == "ok"


def test_a_key_that_others_can_read(tmp_path: Path) -> None:
    own_key()
    path = tmp_path / "data" / "vmctl" / "id_ed25519"
    path.chmod(0o644)
    assert _key().status == "warn"
    assert _key().hint == f"chmod 600 {path}"


def test_a_key_without_its_public_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_text("x", encoding="ascii")
    monkeypatch.setenv("VMCTL_SSH_KEY", str(path))
    assert _key().status == "fail"


def test_a_key_that_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMCTL_SSH_KEY", str(tmp_path))
    assert _key().status == "fail"
