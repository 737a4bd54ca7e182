"""What vmctl remembers of a machine: one element in the domain's own metadata.

libvirt is the only database, so this record is what makes a machine vmctl's. Read-only connections
can read it: it holds no secret.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from lxml import etree

from vmctl.hypervisor.claims import Claim
from vmctl.hypervisor.reserved_addresses import ReservedAddress

__all__ = [
    "KEY",
    "NAMESPACE",
    "Loan",
    "OwnedVolume",
    "Pending",
    "Phase",
    "Record",
    "Role",
    "SnapshotWork",
]

NAMESPACE = "urn:vmctl:machine:1"
KEY = "vmctl"


class Phase(StrEnum):
    """How far a machine's making, or its end, has come."""

    CREATING = "creating"
    """Its name is reserved; what the record lists may or may not exist yet."""
    PROVISIONING = "provisioning"
    """All of it exists; the guest has not reported itself ready yet."""
    READY = "ready"
    """It is whole, and its seed is gone."""
    FLATTENING = "flattening"
    """It is whole, and its disks are being made independent of what lies underneath them."""
    BACKING_UP = "backing-up"
    """It is whole, and QEMU writes a backup of it."""
    SNAPSHOTTING = "snapshotting"
    """It is whole, and an external snapshot of it is being taken."""
    REVERTING = "reverting"
    """It is taken back to a snapshot: its definition says whether it was."""
    MERGING = "merging"
    """It is whole, and layers of its disks that no snapshot needs any more are being merged."""
    RESTORING = "restoring"
    """It is whole, and off; its disks are what they were, or what a backup had, but no mixture."""
    DELETING = "deleting"
    """What the record lists may be gone already."""

    @property
    def is_detour(self) -> bool:
        """Whether the machine is whole, and goes back to another phase when some work is done."""
        return self in _DETOURS


_DETOURS = frozenset(
    {
        Phase.FLATTENING,
        Phase.BACKING_UP,
        Phase.SNAPSHOTTING,
        Phase.REVERTING,
        Phase.MERGING,
        Phase.RESTORING,
    }
)


class Role(StrEnum):
    """What an owned volume is for."""

    DISK = "disk"
    SEED = "seed"
    CONSOLE_LOG = "console-log"
    MEDIUM = "medium"
    KERNEL = "kernel"
    NVRAM = "nvram"
    """UEFI's variables; libvirt makes it at the first start, unless the machine brought its own."""
    SNAPSHOT_MEMORY = "snapshot-memory"
    """A running machine's memory in an external snapshot; libvirt makes it."""
    SNAPSHOT_NVRAM = "snapshot-nvram"
    """UEFI's variables as an external snapshot holds them."""


@dataclass(frozen=True, kw_only=True)
class OwnedVolume:
    """A volume that goes when the machine goes."""

    pool: str
    name: str
    role: Role


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A change of a machine's devices that began; whether it was made is seen in the definition.

    Attributes:
        device: What tells the device in the definition: a target, a MAC address, a medium's path.
        present: Whether the definition has it when the change is made, or has it no more.
        spec: What the record says of the spec from then on.
        made: The volume that is made for it, and goes again if the change is not made.
        base: Pool and name of the image that comes under that volume.
        gone: The volume that is not the machine's any more once the change is made.
        deletes: Whether that one is deleted then.
        proof: An XPath that is true of the definition when the change is made, where that is none
            of a device that came or went; empty otherwise.
    """

    device: str
    present: bool
    spec: dict[str, Any] = field(default_factory=dict)
    made: OwnedVolume | None = None
    base: tuple[str, str] | None = None
    gone: OwnedVolume | None = None
    deletes: bool = False
    proof: str = ""

    @classmethod
    def of_value(cls, spec: dict[str, Any], proof: str) -> Pending:
        """Return the change of a value, by which nothing comes or goes."""
        return cls(device="", present=True, spec=spec, proof=proof)


@dataclass(frozen=True, kw_only=True)
class SnapshotWork:
    """A snapshot that is being taken or gone back to, or a layer that is being merged.

    Attributes:
        snapshot: Its name; empty for a layer.
        made: The volumes that are made for it.
        suspended: Whether the guest, which ran, stands still for it.
        frozen: Whether its file systems do.
        sources: Of a revert: target and path of the files that the disks go on in. Of a layer: the
            target, and the path of the file that it is merged into.
        going: Of a revert: volumes that the machine leaves, and that go unless a snapshot has them.
            Of a layer: the layer.
        before: Of a revert: the definition that it leaves, without secrets and this record.
        restored: Of a revert to an internal snapshot: whether this came back with it.
        own: Likewise, whether vmctl took this.
        inside: Whether it is an internal snapshot that is taken or deleted.
    """

    snapshot: str
    made: tuple[OwnedVolume, ...] = ()
    suspended: bool = False
    frozen: bool = False
    sources: dict[str, str] = field(default_factory=dict)
    going: tuple[OwnedVolume, ...] = ()
    before: str = ""
    restored: bool = False
    own: bool = False
    inside: bool = False


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Disks that are exchanged for others; which the machine has is seen in the definition.

    Attributes:
        coming: The volumes that are made for it, and go again if it is not made.
        going: The volumes that they come for, and that go once it is made.
        spec: What the record says of the spec from then on.
    """

    coming: tuple[OwnedVolume, ...]
    going: tuple[OwnedVolume, ...]
    spec: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Loan:
    """A snapshot that is taken for a clone to lie on, and that goes if the clone is not made.

    Attributes:
        snapshot: Its name.
        claim: Who makes the clone.
    """

    snapshot: str
    claim: Claim


@dataclass(frozen=True, kw_only=True)
class Record:
    """A machine, as vmctl remembers it.

    Attributes:
        uuid: The machine it is of. In a copy of a domain the record is another machine's, and so
            are the volumes.
        phase: How far it is.
        created: When its launch began, ISO 8601 in UTC.
        owner: Who launched it, ``USER@CLIENT``.
        spec: Its spec without secrets, as plain data.
        volumes: What it owns; recorded before any of it exists.
        bases: Pool and name of the images under its disks; shared, not owned.
        brought: Those of them that this launch uploads; until it succeeds, they go with it.
        started_networks: Networks that did not run before this launch; until it succeeds, they are
            stopped with it.
        addresses: What networks keep for it; recorded before they do.
        instance_id: cloud-init's instance-id.
        host_key: The guest's public SSH host key, ``ssh-ed25519 AAAA...``; empty without
            cloud-init.
        ssh_user: The user that vmctl logs in as; empty without cloud-init.
        claim: Who is at work on it, if somebody is.
        exported_by: Who reads its disks, if somebody does. Apart from ``claim``, for a machine
            whose reader was killed is whole, and nothing for `gc`.
        before: The phase that it goes back to after the present one, where it does.
        woken: Whether QEMU was started, paused, for the present phase alone.
        pending: A change of its devices that began.
        copied_from: UUID of the machine whose disks are being copied into its own; empty when
            they are whole.
        froze: Whether that one's file systems are frozen for it, or were about to be.
        work: The snapshot that is being taken or gone back to.
        exchange: An exchange of its disks that began.
        lent: Snapshots of it for clones that are being made.
    """

    uuid: str
    phase: Phase
    created: str
    owner: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    volumes: tuple[OwnedVolume, ...] = ()
    bases: tuple[tuple[str, str], ...] = ()
    brought: tuple[tuple[str, str], ...] = ()
    started_networks: tuple[str, ...] = ()
    addresses: tuple[ReservedAddress, ...] = ()
    instance_id: str = ""
    host_key: str = ""
    ssh_user: str = ""
    claim: Claim | None = None
    exported_by: Claim | None = None
    before: Phase | None = None
    woken: bool = False
    pending: Pending | None = None
    copied_from: str = ""
    froze: bool = False
    work: SnapshotWork | None = None
    exchange: Exchange | None = None
    lent: tuple[Loan, ...] = ()

    def volume(self, role: Role) -> OwnedVolume | None:
        """Return the first owned volume of that role."""
        return next((volume for volume in self.volumes if volume.role is role), None)

    def to_xml(self, *, prefixed: bool = True) -> str:
        """Return the element.

        Args:
            prefixed: With vmctl's namespace, as it stands in a domain's XML;
                ``virDomainSetMetadata`` adds that itself.
        """
        tag = f"{{{NAMESPACE}}}machine" if prefixed else "machine"
        root = etree.Element(tag, nsmap={KEY: NAMESPACE} if prefixed else None)
        for name, value in self._attributes().items():
            root.set(name, value)
        self._add_lists(root)
        for name, text in self._texts().items():
            etree.SubElement(root, name).text = text
        for tag, claim in (("claim", self.claim), ("exported-by", self.exported_by)):
            if claim is not None:
                _add_claim(root, tag, claim)
        for loan in self.lent:
            _add_claim(root, "lent", loan.claim, snapshot=loan.snapshot)
        return etree.tostring(root, encoding="unicode")

    def _add_lists(self, root: etree._Element) -> None:
        for volume in self.volumes:
            etree.SubElement(
                root, "volume", pool=volume.pool, name=volume.name, role=volume.role.value
            )
        for tag, images in (("base", self.bases), ("brought", self.brought)):
            for pool, name in images:
                etree.SubElement(root, tag, pool=pool, name=name)
        for name in self.started_networks:
            etree.SubElement(root, "started-network", name=name)
        for entry in self.addresses:
            entry.add_to(root)

    def _attributes(self) -> dict[str, str]:
        found = {"uuid": self.uuid, "phase": self.phase.value}
        found |= {"created": self.created, "owner": self.owner}
        if self.before is not None:
            found["before"] = self.before.value
        if self.copied_from:
            found["copied-from"] = self.copied_from
        flags = {"woken": self.woken, "froze": self.froze}
        return found | {name: "yes" for name, on in flags.items() if on}

    def _texts(self) -> dict[str, str]:
        names = ("instance_id", "host_key", "ssh_user")
        found = {name.replace("_", "-"): getattr(self, name) for name in names}
        if self.pending is not None:
            found["pending"] = _to_json(asdict(self.pending))
        if self.work is not None:
            found["work"] = _to_json(asdict(self.work))
        if self.exchange is not None:
            found["exchange"] = _to_json(asdict(self.exchange))
        found["spec"] = _to_json(self.spec)
        return {name: text for name, text in found.items() if text}

    @classmethod
    def from_xml(cls, text: str) -> Record:
        """Read what `to_xml` wrote.

        Raises:
            ValueError: It is no record, or one of a newer vmctl.
        """
        root = etree.fromstring(text, parser=etree.XMLParser(resolve_entities=False))
        # libvirt hands the element out with or without its namespace, as the call wants it.
        for node in root.iter(etree.Element):
            node.tag = etree.QName(node).localname
        return cls(
            uuid=root.get("uuid", ""),
            phase=Phase(root.get("phase", "")),
            created=root.get("created", ""),
            owner=root.get("owner", ""),
            spec=_read_spec(root.findtext("spec") or "{}"),
            volumes=tuple(
                OwnedVolume(
                    pool=node.get("pool", ""),
                    name=node.get("name", ""),
                    role=Role(node.get("role", "")),
                )
                for node in root.findall("volume")
            ),
            bases=_read_images(root, "base"),
            brought=_read_images(root, "brought"),
            started_networks=tuple(
                node.get("name", "") for node in root.findall("started-network")
            ),
            addresses=ReservedAddress.all_in(root),
            instance_id=root.findtext("instance-id") or "",
            host_key=root.findtext("host-key") or "",
            ssh_user=root.findtext("ssh-user") or "",
            claim=_read_claim(root.find("claim")),
            exported_by=_read_claim(root.find("exported-by")),
            before=Phase(root.get("before", "")) if root.get("before") else None,
            woken=root.get("woken") == "yes",
            pending=_read_pending(root.findtext("pending")),
            copied_from=root.get("copied-from", ""),
            froze=root.get("froze") == "yes",
            work=_read_work(root.findtext("work")),
            exchange=_read_exchange(root.findtext("exchange")),
            lent=tuple(_read_loans(root)),
        )


def _to_json(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def _read_pending(text: str | None) -> Pending | None:
    if not text:
        return None
    data = json.loads(text)
    for name in ("made", "gone"):
        if data[name] is not None:
            data[name] = OwnedVolume(**{**data[name], "role": Role(data[name]["role"])})
    data["base"] = None if data["base"] is None else tuple(data["base"])
    return Pending(**data)


def _read_work(text: str | None) -> SnapshotWork | None:
    if not text:
        return None
    data = json.loads(text)
    for name in ("made", "going"):
        data[name] = tuple(
            OwnedVolume(pool=entry["pool"], name=entry["name"], role=Role(entry["role"]))
            for entry in data[name]
        )
    return SnapshotWork(**data)


def _read_exchange(text: str | None) -> Exchange | None:
    if not text:
        return None
    data = json.loads(text)
    for name in ("coming", "going"):
        data[name] = tuple(OwnedVolume(**{**it, "role": Role(it["role"])}) for it in data[name])
    return Exchange(**data)


def _read_spec(text: str) -> dict[str, Any]:
    spec = json.loads(text)
    if not isinstance(spec, dict):
        raise ValueError("the spec is no mapping")  # noqa: TRY004 - as for all that can't be read
    return spec


def _read_images(root: etree._Element, tag: str) -> tuple[tuple[str, str], ...]:
    return tuple((node.get("pool", ""), node.get("name", "")) for node in root.findall(tag))


def _add_claim(root: etree._Element, tag: str, claim: Claim, **more: str) -> None:
    etree.SubElement(
        root,
        tag,
        more
        | {
            "client": claim.client,
            "boot-id": claim.boot_id,
            "pid-namespace": claim.pid_namespace,
            "pid": str(claim.pid),
            "started": str(claim.started),
            "token": claim.token,
            "expires": str(claim.expires),
        },
    )


def _read_loans(root: etree._Element) -> Iterator[Loan]:
    for node in root.findall("lent"):
        claim = _read_claim(node)
        if claim is not None:
            yield Loan(snapshot=node.get("snapshot", ""), claim=claim)


def _read_claim(node: etree._Element | None) -> Claim | None:
    if node is None:
        return None
    return Claim(
        client=node.get("client", ""),
        boot_id=node.get("boot-id", ""),
        pid_namespace=node.get("pid-namespace", ""),
        pid=int(node.get("pid", "0")),
        started=int(node.get("started", "0")),
        token=node.get("token", ""),
        expires=int(node.get("expires", "0")),
    )
