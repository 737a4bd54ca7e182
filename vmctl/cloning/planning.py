"""What a clone is going to be: worked out and checked before any of it exists."""

from __future__ import annotations

import uuid as uuid_module
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from vmctl import nic_filters
from vmctl.cloning.origin import CopiedPart, Origin
from vmctl.cloning.wanted import Wanted, wanted_spec
from vmctl.errors import UnsupportedError
from vmctl.guest.identity import KeyPair, make_key
from vmctl.hypervisor.access import refuse_closed_folder
from vmctl.hypervisor.claims import own_name
from vmctl.hypervisor.metadata import NAMESPACE, OwnedVolume, Phase, Record, Role
from vmctl.hypervisor.networks import is_active
from vmctl.hypervisor.pools import Pool, open_pool
from vmctl.networking.reserving import PlannedAddress, plan_addresses, refuse_taken_macs
from vmctl.render.clone import CloneIdentity, clone_definition
from vmctl.render.iso import build_iso
from vmctl.render.nwfilter import NicFilter
from vmctl.render.nwfilter import nic_filters as render_nic_filters
from vmctl.render.seed import SeedIdentity
from vmctl.render.seed_clone import render_clone_seed
from vmctl.render.templates import Templates
from vmctl.spec import VMSpec
from vmctl.spec.disk import DiskFormat
from vmctl.spec.drives import DriveKind, place_drives
from vmctl.spec.sizes import Size
from vmctl.tenancy import refuse_foreign_nics

__all__ = ["ClonePlan", "Copy", "plan_clone"]


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A volume of the clone's, and what of the source it is a copy of.

    Attributes:
        part: That.
        owned: Its pool, name and role.
        path: Where it will be on the host.
        format: How it is written.
        linked: Whether it is none, but lies on that.
    """

    part: CopiedPart
    owned: OwnedVolume
    path: str
    format: str
    linked: bool = False


@dataclass(frozen=True, kw_only=True)
class ClonePlan:
    """All that the making of a clone does.

    Attributes:
        name: Its name.
        uuid: Its UUID.
        pool: Where its volumes go.
        copies: Those that are copies.
        contents: Those that are new, with what is in them.
        record: What its metadata says from its first moment on.
        spec: Its spec.
        addresses: What networks are to keep for it.
        notes: One sentence for each thing that is not as it is in its source.
    """

    name: str
    uuid: str
    pool: Pool
    copies: tuple[Copy, ...]
    contents: tuple[tuple[OwnedVolume, bytes], ...]
    record: Record
    spec: VMSpec
    addresses: tuple[PlannedAddress, ...]
    notes: tuple[str, ...]
    _definition: str
    _identity: CloneIdentity

    def xml(self, record: Record) -> str:
        """Return its definition with a record in it."""
        identity = replace(self._identity, record=record.to_xml(), namespace=NAMESPACE)
        return clone_definition(self._definition, identity)[0]


def plan_clone(
    origin: Origin,
    name: str,
    *,
    linked: bool,
    values: Mapping[str, Any],
    pool_name: str,
    key: KeyPair,
    templates: Templates | None,
) -> ClonePlan:
    """Work out what to make of a machine.

    Args:
        origin: The machine; what a linked clone lies on, nobody writes to any more.
        name: The clone's name.
        linked: Whether its disks lie on those of the machine.
        values: What it has in the place of what only one machine can have.
        pool_name: Where its volumes go.
        key: The client's key.
        templates: Where the seed's documents come from; None for the default chain.

    Raises:
        UnsupportedError: It can't be cloned, or has what two machines can't both have.
        NotFoundError: The pool, a network or a volume isn't there.
        ResourceError: The pool has no room.
        SpecError: It can't have an address that it is given.
    """
    uuid = str(uuid_module.uuid4())
    source = origin.record
    wanted = wanted_spec(source.spec, name=name, uuid=uuid, values=values)
    connection = origin.domain.connection
    for network in origin.domain.networks():
        is_active(connection, network)
    refuse_foreign_nics(connection, name, wanted.spec.tenant, wanted.spec.nics)
    if any(path.endswith(".mac") for path in values):
        refuse_taken_macs(connection, wanted.spec.nics)
    addresses = plan_addresses(connection, wanted.spec, uuid)
    pool = open_pool(connection, pool_name)
    refuse_closed_folder(connection, pool.name)
    namer = _Namer(name, uuid, pool)
    _refuse_linked_inside(origin, linked=linked)
    copies = tuple(namer.copy(part, linked=linked) for part in origin.parts)
    _refuse_without_room(pool, origin, copies)
    alone = not (linked or origin.inside)
    wanted = replace(wanted, spec=_with_copies(wanted.spec, copies, alone=alone))
    identity, notes = _identity(origin, wanted, uuid, namer, copies)
    seed = _seed(origin, wanted.spec, uuid, key, templates)
    if seed is None:
        notes.extend(_same_inside(source))
    else:
        path = namer.content("seed.iso", Role.SEED, seed.image)
        identity = replace(identity, seed=(seed.drive, path))
    _xml, more = clone_definition(origin.definition, identity)
    return ClonePlan(
        name=name,
        uuid=uuid,
        pool=pool,
        copies=copies,
        contents=tuple(namer.contents),
        notes=(*wanted.notes, *more, *notes, *origin.notes),
        record=Record(
            uuid=uuid,
            phase=Phase.CREATING,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            owner=own_name(),
            spec=wanted.recorded(),
            addresses=tuple(planned.entry for planned in addresses),
            volumes=tuple(namer.owned),
            # Copied byte by byte, a disk lies on its image as before.
            bases=source.bases if linked or origin.inside else (),
            instance_id=uuid if seed else source.instance_id,
            host_key=seed.host_key if seed else source.host_key,
            ssh_user=source.ssh_user,
            copied_from=source.uuid,
        ),
        spec=wanted.spec,
        addresses=addresses,
        _definition=origin.definition,
        _identity=identity,
    )


class _Namer:
    """Gives the clone's volumes their names, and keeps a list of them."""

    def __init__(self, name: str, uuid: str, pool: Pool) -> None:
        self._prefix = f"{name}.{uuid}"
        self._pool = pool
        self.owned: list[OwnedVolume] = []
        self.contents: list[tuple[OwnedVolume, bytes]] = []

    def own(self, suffix: str, role: Role) -> OwnedVolume:
        """Name a volume; returns what the record says of it."""
        # As the plan of a launch names it: MACHINE.UUID.TARGET.FORMAT.
        volume = OwnedVolume(pool=self._pool.name, name=f"{self._prefix}.{suffix}", role=role)
        self.owned.append(volume)
        return volume

    def copy(self, part: CopiedPart, *, linked: bool) -> Copy:
        """Name the copy of a part of the source."""
        if part.role is not Role.DISK:
            owned = self.own(part.suffix, part.role)
            return Copy(part=part, owned=owned, path=self.path(owned), format="raw")
        form = "raw" if part.format == "raw" and not linked else "qcow2"
        owned = self.own(f"{part.suffix}.{form}", part.role)
        return Copy(part=part, owned=owned, path=self.path(owned), format=form, linked=linked)

    def content(self, suffix: str, role: Role, content: bytes) -> str:
        """Name a volume that is new; returns its path on the host."""
        owned = self.own(suffix, role)
        self.contents.append((owned, content))
        return self.path(owned)

    def path(self, owned: OwnedVolume) -> str:
        """Return where a volume will be on the host."""
        return self._pool.path_of(owned.name)


def _identity(
    origin: Origin, wanted: Wanted, uuid: str, namer: _Namer, copies: tuple[Copy, ...]
) -> tuple[CloneIdentity, list[str]]:
    paths = {copy.part.path: copy.path for copy in copies}
    notes = []
    if origin.console_log:
        paths[origin.console_log] = namer.content("console.log", Role.CONSOLE_LOG, b"")
    nvram = None
    if origin.nvram:
        # Not a copy among the others: at which moment it is read matters, if the guest runs.
        nvram = namer.path(namer.own("nvram", Role.NVRAM))
        paths[origin.nvram] = nvram
        if not origin.nvram_source:
            notes.append(
                "its firmware's variables begin anew: those of its source lie at "
                f"{origin.nvram}, and not in a pool"
            )
    return (
        CloneIdentity(
            name=wanted.spec.name,
            uuid=uuid,
            namespace=NAMESPACE,
            macs=wanted.macs,
            filters=_filters(origin, wanted.spec),
            paths=paths,
            formats={copy.part.target: copy.format for copy in copies if copy.part.target},
            nvram=nvram,
        ),
        notes,
    )


def _filters(origin: Origin, spec: VMSpec) -> dict[str, NicFilter]:
    known = nic_filters.known_addresses(origin.domain.connection, spec.nics)
    return render_nic_filters(spec, known)


def _with_copies(spec: VMSpec, copies: tuple[Copy, ...], *, alone: bool) -> VMSpec:
    """Let the spec say of the disks what they are: copies, or linked to those of the source."""
    copied = {copy.part.target: copy for copy in copies if copy.part.role is Role.DISK}
    targets = {
        drive.index: drive.target for drive in place_drives(spec) if drive.kind is DriveKind.DISK
    }
    disks = []
    for number, disk in enumerate(spec.disks):
        copy = copied.get(targets[number])
        if copy is None:
            disks.append(disk)
            continue
        image = disk.image or (spec.image if number == 0 else None)
        changes: dict[str, Any] = {
            "size": Size(copy.part.capacity),
            "full_clone": image is not None and disk.volume is None and alone,
            "volume": None,
            "read_only": False,
            "format": DiskFormat(copy.format) if disk.format or disk.volume else None,
        }
        disks.append(disk.model_copy(update=changes))
    return spec.model_copy(update={"disks": tuple(disks)})


def _refuse_linked_inside(origin: Origin, *, linked: bool) -> None:
    if linked and origin.inside:
        raise UnsupportedError(
            f"the snapshot '{origin.inside[0]}' of '{origin.domain.name}' is an internal one, "
            "and nothing can lie on that",
            hint="make a full clone of it; or take external snapshots: "
            "`vmctl snapshot create --kind external`",
        )


def _refuse_without_room(pool: Pool, origin: Origin, copies: tuple[Copy, ...]) -> None:
    pool.refresh()
    needed = sum(copy.part.room for copy in copies if not copy.linked)
    if pool.available() < needed:
        raise pool.no_room(f"for a copy of '{origin.domain.name}' ({needed} bytes at least)")


@dataclass(frozen=True, kw_only=True)
class _Seed:
    drive: str
    image: bytes
    host_key: str


def _seed(
    origin: Origin, spec: VMSpec, uuid: str, key: KeyPair, templates: Templates | None
) -> _Seed | None:
    """Make the seed that tells the guest who it is; None for one without cloud-init."""
    if spec.cloud_init is None or not origin.record.ssh_user:
        return None
    drive = next(drive.target for drive in place_drives(spec) if drive.kind is DriveKind.SEED)
    if drive not in origin.empty_drives:
        raise UnsupportedError(
            f"the drive {drive} of '{origin.domain.name}' is taken, or gone: it is where a "
            "clone's guest finds who it is",
            hint=f"take out what is in it: `vmctl cdrom eject {origin.domain.name} {drive}`",
        )
    own = make_key()
    identity = SeedIdentity(
        instance_id=uuid,
        host_key_private=own.private,
        host_key_public=own.public,
        authorized_keys=(key.public,),
    )
    files = render_clone_seed(
        spec, identity, user=origin.record.ssh_user, uuid=uuid, templates=templates
    )
    return _Seed(drive=drive, image=build_iso(files), host_key=own.public)


def _same_inside(source: Record) -> Iterator[str]:
    yield (
        "it has no cloud-init, so its guest believes to be its source: its host name, machine-id, "
        "SSH host keys and static addresses are the same until you change them inside"
    )
    if source.host_key:
        yield "vmctl knows it by its source's SSH host key"
