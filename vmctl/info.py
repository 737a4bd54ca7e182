"""What is known of a machine, as plain data with stable names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from lxml import etree

from vmctl.errors import GuestError, WrongStateError
from vmctl.guest import addresses
from vmctl.guest.agent import Agent
from vmctl.guest.reach import Reach
from vmctl.hypervisor import runs, saves, snapshots
from vmctl.hypervisor.chains import Layer, read_chain
from vmctl.hypervisor.domains import Domain, State
from vmctl.hypervisor.metadata import Record
from vmctl.hypervisor.reasons import state_and_reason
from vmctl.hypervisor.reservations import read_kept

__all__ = ["DiskInfo", "MachineInfo", "MachineSummary", "NicInfo", "describe"]

_UNITS = {"b": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True, kw_only=True)
class MachineSummary:
    """A line of a list.

    Attributes:
        name: Its name.
        uuid: Its UUID.
        state: libvirt's word for its state.
        state_reason: libvirt's word for why it is in it: ``booted``, ``shutdown``, ``crashed``,
            ``I/O error`` ...; empty where it does not know (any more).
        addresses: Where its guest can be reached, as far as that is known without asking it.
        autostart: Whether it starts with the host.
        saved: Whether its memory is saved, so that its next start goes on from there.
        phase: How far vmctl is with it: ``creating``, ``provisioning``, ``ready``, ``flattening``,
            ``snapshotting``, ``reverting``, ``backing-up``, ``restoring``, ``deleting``;
            empty for a machine that vmctl did not make, ``unreadable`` for one whose record this
            vmctl can't read; None in a list without details.
        labels: Its labels; None in a list without details.
        tenant: Whose it is, empty for nobody's; None in a list without details.
    """

    name: str
    uuid: str
    state: str
    state_reason: str = ""
    addresses: tuple[str, ...] = ()
    autostart: bool = False
    saved: bool = False
    phase: str | None = None
    labels: dict[str, str] | None = None
    tenant: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class DiskInfo:
    """A disk or drive.

    Attributes:
        target: Its name in the guest's bus, ``vda``.
        device: ``disk``, ``cdrom`` or ``floppy``.
        bus: What it is attached to.
        source: Its path on the host; empty for an empty drive.
        format: How it is written.
        capacity: Bytes that its guest sees; None where that isn't known.
        allocation: Bytes that it takes on the host for itself; None where that isn't known.
        shared: Bytes of the images underneath, which it shares; 0 without any.
        chain: The files that it is made of, the one that is written to first.
    """

    target: str
    device: str
    bus: str
    source: str
    format: str
    capacity: int | None = None
    allocation: int | None = None
    shared: int = 0
    chain: tuple[Layer, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NicInfo:
    """A NIC.

    Attributes:
        mac: Its MAC address.
        type: ``network``, ``bridge`` or ``user``.
        source: Its network or bridge.
        model: The hardware that the guest sees.
        reserved: The addresses that its network keeps for it.
    """

    mac: str
    type: str
    source: str
    model: str
    reserved: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MachineInfo(MachineSummary):
    """All that is asked for about one machine.

    Attributes:
        vcpus: Virtual processors.
        memory: Bytes.
        machine: The machine type, as the host resolved it.
        firmware: ``bios`` or ``uefi``.
        accelerator: ``kvm`` or ``qemu`` (emulation).
        started: When it was started, ISO 8601; empty when it is off, or vmctl did not start it.
        uptime: Seconds since then, on the client's clock; None when that isn't known.
        created: When it was launched, ISO 8601; empty if vmctl did not make it.
        owner: Who launched it, ``USER@CLIENT``; empty if vmctl did not make it.
        ssh_user: The user that vmctl logs in as.
        host_key: The guest's public SSH host key.
        disks: Its disks and drives.
        nics: Its network interfaces.
        graphics: Its graphics servers, ``vnc 127.0.0.1:5900`` where it runs, on its host.
        snapshots: The names of its snapshots, the oldest first.
        current_snapshot: The one that it goes on from; empty without one.
        snapshot_kind: Of which kind its next snapshot would be, ``internal`` or ``external``; empty
            where it can't have one now.
        snapshot_why: Why it would be of that kind, or why it can't have one; empty for a machine
            that vmctl did not make.
        sources: What each source says of its address.
        frozen: Whether its guest's file systems are frozen, by its agent; None where none answers.
    """

    phase: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    vcpus: int = 0
    memory: int = 0
    machine: str = ""
    firmware: str = "bios"
    accelerator: str = ""
    started: str = ""
    uptime: float | None = None
    created: str = ""
    owner: str = ""
    ssh_user: str = ""
    host_key: str = ""
    disks: tuple[DiskInfo, ...] = ()
    nics: tuple[NicInfo, ...] = ()
    graphics: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    current_snapshot: str = ""
    snapshot_kind: str = ""
    snapshot_why: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    frozen: bool | None = None


def describe(
    domain: Domain,
    record: Record | None,
    *,
    reach: Reach,
    next_snapshot: tuple[str, str] = ("", ""),
) -> MachineInfo:
    """Return all that is known of one machine; its guest is asked where it runs.

    Args:
        domain: The machine.
        record: What vmctl knows of it.
        reach: How its guest is reached.
        next_snapshot: The kind of its next snapshot, and why.
    """
    state, reason = state_and_reason(domain)
    root = etree.fromstring(domain.xml())
    sighting = addresses.Sighting()
    if state is State.RUNNING and record is not None:
        sighting = addresses.look(domain, record.spec, reach=reach, make_forwards=False)
    since = runs.running_since(domain)
    os_type = root.find("os/type")
    taken = snapshots.list_snapshots(domain)
    kept = read_kept(domain.connection)
    return MachineInfo(
        name=domain.name,
        uuid=domain.uuid,
        state=state.value,
        state_reason=reason,
        phase="" if record is None else record.phase.value,
        addresses=tuple(map(_shown, sighting.endpoints))
        or addresses.known_addresses(domain, state, record, kept=kept),
        labels={} if record is None else dict(record.spec.get("labels") or {}),
        tenant="" if record is None else str(record.spec.get("tenant") or ""),
        saved=saves.has_saved_state(domain),
        vcpus=int(_attribute(root, "vcpu", "current") or root.findtext("vcpu") or 0),
        memory=_memory(root),
        machine="" if os_type is None else os_type.get("machine") or "",
        firmware="uefi" if root.find("os/loader[@type='pflash']") is not None else "bios",
        accelerator=root.get("type") or "",
        started="" if since is None else since.isoformat(timespec="seconds"),
        uptime=None if since is None else (datetime.now(UTC) - since).total_seconds(),
        created="" if record is None else record.created,
        owner="" if record is None else record.owner,
        ssh_user="" if record is None else record.ssh_user,
        host_key="" if record is None else record.host_key,
        autostart=domain.autostart(),
        disks=tuple(_with_space(domain, _disk(node)) for node in root.findall("devices/disk")),
        nics=tuple(
            _with_reserved(_nic(node), record, kept) for node in root.findall("devices/interface")
        ),
        graphics=tuple(_graphics(node) for node in root.findall("devices/graphics")),
        snapshots=tuple(entry.name for entry in taken),
        current_snapshot=next((entry.name for entry in taken if entry.current), ""),
        snapshot_kind=next_snapshot[0],
        snapshot_why=next_snapshot[1],
        sources=sighting.said,
        frozen=_frozen(domain, root) if state is State.RUNNING else None,
    )


def _frozen(domain: Domain, root: etree._Element) -> bool | None:
    """Ask the agent, if there is one: a client that was killed may have left them frozen."""
    channel = root.find("devices/channel/target[@name='org.qemu.guest_agent.0']")
    if channel is None or channel.get("state") != "connected":
        return None
    try:
        return Agent(domain).is_frozen()
    except (GuestError, WrongStateError):
        # It hangs, or the machine went off meanwhile.
        return None


def _shown(endpoint: addresses.Endpoint) -> str:
    """Return an address as a person would type it: the port only where it is not SSH's own."""
    if endpoint.port == 22:
        return endpoint.address
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    return f"{host}:{endpoint.port}"


def _attribute(root: etree._Element, path: str, name: str) -> str:
    node = root.find(path)
    return "" if node is None else node.get(name) or ""


def _memory(root: etree._Element) -> int:
    node = root.find("currentMemory")
    if node is None:
        node = root.find("memory")
    if node is None:
        return 0
    return int(node.text or 0) * _UNITS.get(node.get("unit") or "KiB", 1 << 10)


def _disk(node: etree._Element) -> DiskInfo:
    source = node.find("source")
    where = (
        ""
        if source is None
        else next(
            (source.get(key) or "" for key in ("file", "dev", "name", "volume") if source.get(key)),
            "",
        )
    )
    return DiskInfo(
        target=_attribute(node, "target", "dev"),
        device=node.get("device") or "disk",
        bus=_attribute(node, "target", "bus"),
        source=where,
        format=_attribute(node, "driver", "type"),
    )


def _with_space(domain: Domain, disk: DiskInfo) -> DiskInfo:
    """Return the disk with the files that it is made of, and what they take."""
    if not disk.source.startswith("/"):
        return disk
    top, *below = read_chain(domain.connection, disk.source, disk.format)
    return replace(
        disk,
        capacity=top.capacity,
        allocation=top.allocation,
        shared=sum(layer.allocation or 0 for layer in below),
        chain=(top, *below),
    )


def _graphics(node: etree._Element) -> str:
    kind, port = node.get("type") or "", node.get("port") or ""
    if socket := node.get("socket") or "":
        return f"{kind} {socket}"
    # Without a port it has none yet: the machine is off.
    return f"{kind} {node.get('listen') or ''}:{port}" if port not in {"", "-1"} else kind


def _with_reserved(nic: NicInfo, record: Record | None, kept: dict[str, list[str]]) -> NicInfo:
    own = () if record is None else record.addresses
    found = [entry.address for entry in own if entry.mac == nic.mac]
    return replace(nic, reserved=tuple(dict.fromkeys([*found, *kept.get(nic.mac, ())])))


def _nic(node: etree._Element) -> NicInfo:
    return NicInfo(
        mac=_attribute(node, "mac", "address"),
        type=node.get("type") or "",
        source=_attribute(node, "source", "network") or _attribute(node, "source", "bridge"),
        model=_attribute(node, "model", "type"),
    )
