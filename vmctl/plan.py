"""What a launch is going to make: worked out and checked before any of it exists."""

from __future__ import annotations

import uuid as uuid_module
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vmctl import bases, nic_filters
from vmctl.client_files import unreadable, with_key_files
from vmctl.errors import ResourceError, SpecError, SpecProblem, UsageError
from vmctl.existing import existing_source
from vmctl.guest.identity import KeyPair, make_key
from vmctl.guest.port_relays import refuse_unreachable
from vmctl.hypervisor.access import refuse_closed_folder
from vmctl.hypervisor.claims import own_name
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.host_devices import refuse_missing_device
from vmctl.hypervisor.image_names import ImageName
from vmctl.hypervisor.metadata import OwnedVolume, Phase, Record, Role
from vmctl.hypervisor.networks import is_active
from vmctl.hypervisor.outgrowing import warn_of_outgrowing
from vmctl.hypervisor.pools import Pool, open_pool
from vmctl.imaging.inspection import Image
from vmctl.networking.reserving import PlannedAddress, plan_addresses, refuse_taken_macs
from vmctl.obtaining import obtain
from vmctl.progress import Reporter
from vmctl.render.domain import Placement, disk_targets, render_domain, with_macs
from vmctl.render.facts import HostFacts
from vmctl.render.iso import build_iso
from vmctl.render.seed import SeedIdentity, render_seed, ssh_user
from vmctl.render.sources import DiskSource
from vmctl.render.templates import Templates
from vmctl.render.wishes import resolved_for
from vmctl.spec import FirmwareType, VMSpec
from vmctl.spec.problems import join_path
from vmctl.spec.profiles import profile_for
from vmctl.tenancy import fenced, refuse_foreign_nics

__all__ = ["Imported", "NewVolume", "Plan", "make_plan", "plan_disk", "plan_medium"]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What a machine brings that lived elsewhere before; its spec has no images.

    Attributes:
        disks: The qcow2 file on the client with each disk's content, None for a blank one.
        host_key: The guest's public SSH host key; empty where it isn't known.
        ssh_user: Whom vmctl logs in as; empty likewise.
        instance_id: cloud-init's instance-id; empty likewise.
        nvram: The file on the client with UEFI's variables; None: the firmware starts afresh.
    """

    disks: tuple[Image | None, ...]
    host_key: str = ""
    ssh_user: str = ""
    instance_id: str = ""
    nvram: Path | None = None


@dataclass(frozen=True, kw_only=True)
class NewVolume:
    """A volume that is going to be made.

    Attributes:
        owned: Its pool, name and role.
        format: ``qcow2`` or ``raw``.
        capacity: What the guest sees, in bytes.
        base: The image under it.
        full: Whether it is a copy of that image, and does not lie on it.
        content: What is written into it: bytes, or a file on the client.
    """

    owned: OwnedVolume
    format: str
    capacity: int
    base: Image | ImageName | None = None
    full: bool = False
    content: bytes | Path | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a launch does.

    Attributes:
        spec: The spec with every default and MAC address filled in.
        uuid: The new machine's UUID.
        addresses: What networks are to keep for it.
        pool: Where its volumes go.
        volumes: Them.
        record: What the machine's metadata says from its first moment on.
        facts: What the host can do.
    """

    spec: VMSpec
    uuid: str
    pool: Pool
    volumes: tuple[NewVolume, ...]
    placement: Placement
    record: Record
    facts: HostFacts
    addresses: tuple[PlannedAddress, ...] = ()

    def xml(self, *, record: Record, templates: Templates | None) -> str:
        """Return the domain's XML with a record in it."""
        placement = replace(self.placement, metadata=record.to_xml())
        return render_domain(self.spec, self.facts, placement, templates=templates)


def make_plan(
    wanted: VMSpec,
    *,
    connection: Connection,
    facts: HostFacts,
    pool_name: str,
    key: KeyPair,
    reporter: Reporter,
    templates: Templates | None = None,
    imported: Imported | None = None,
) -> Plan:
    """Work out what to make for a spec, and for what an imported machine brings.

    Raises:
        SpecError: The spec does not fit its image, or names a file that isn't there, or an address
            that it can't have.
        ImageError: An image is not fit to be used.
        NotFoundError: An image, a volume, a network or the pool isn't there.
        ResourceError: The host is too small.
        UnsupportedError: The host's QEMU may not enter the pool's folder.
    """
    identifier = str(uuid_module.uuid4())
    spec = with_macs(with_key_files(resolved_for(wanted, facts)), identifier)
    if facts.memory and spec.memory > facts.memory:
        raise ResourceError(
            f"'{spec.name}' wants {spec.memory >> 20} MiB of memory, "
            f"and the host has {facts.memory >> 20} MiB in all",
            hint="give it less memory, or use a larger host",
        )
    _refuse_open_screens(spec)
    _check_networks(spec, connection)
    refuse_taken_macs(connection, wanted.nics)
    addresses = plan_addresses(connection, spec, identifier)
    spec = spec.model_copy(update={"nics": tuple(fenced(connection, spec.tenant, spec.nics))})
    called = ((f"nics[{number}]", nic) for number, nic in enumerate(spec.nics))
    nic_filters.refuse_unfilterable(connection, called)
    pool = open_pool(connection, pool_name)
    refuse_closed_folder(connection, pool.name)
    builder = _Builder(spec, identifier, pool, reporter, imported)
    disks = tuple(builder.disks())
    cdroms = tuple(
        builder.medium(entry.path, entry.volume, "cdroms", n, "iso")
        for n, entry in enumerate(spec.cdroms)
    )
    floppies = tuple(
        builder.medium(entry.path, entry.volume, "floppies", n, "img")
        for n, entry in enumerate(spec.floppies)
    )
    boot = spec.boot
    kernel = builder.upload(boot.kernel, "boot.kernel", "kernel", Role.KERNEL)
    initrd = builder.upload(boot.initrd, "boot.initrd", "initrd", Role.KERNEL)
    nvram = builder.nvram()
    # An imported guest was provisioned where it lived; the drive for its seed stays empty.
    identity = None if imported is not None else _identity(spec, identifier, key)
    seed = None
    if identity is not None:
        files = render_seed(spec, identity, templates=templates)
        seed = builder.add_content("seed.iso", Role.SEED, build_iso(files))
    console = builder.add_content("console.log", Role.CONSOLE_LOG, b"")
    return Plan(
        spec=spec,
        uuid=identifier,
        pool=pool,
        volumes=tuple(builder.volumes),
        placement=Placement(
            uuid=identifier,
            disks=tuple(source for source, _format in disks),
            disk_formats=tuple(format_ for _path, format_ in disks),
            cdroms=cdroms,
            floppies=floppies,
            seed=seed,
            has_seed=spec.cloud_init is not None,
            console_log=console,
            kernel=kernel,
            initrd=initrd,
            nvram=nvram,
            addresses=nic_filters.known_addresses(connection, spec.nics),
        ),
        record=Record(
            uuid=identifier,
            phase=Phase.CREATING,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            owner=own_name(),
            spec=spec.without_secrets(),
            addresses=tuple(planned.entry for planned in addresses),
            volumes=(*(volume.owned for volume in builder.volumes), *builder.made_by_libvirt),
            bases=tuple(
                dict.fromkeys(
                    (pool.name, bases.base_name(volume.base))
                    for volume in builder.volumes
                    if volume.base is not None
                )
            ),
            **_known_of(spec, identity, imported),
        ),
        facts=facts,
        addresses=addresses,
    )


def plan_disk(
    spec: VMSpec, index: int, *, uuid: str, pool: Pool, reporter: Reporter
) -> tuple[str | DiskSource | None, str, NewVolume | None]:
    """Work out what one disk of a machine is, that comes to it later.

    Returns:
        Its source, its format, and the volume that is going to be made for it.
    """
    alone = spec.model_copy(update={"disks": (spec.disks[index],), "image": None})
    builder = _Builder(alone, uuid, pool, reporter, boots=False, single=True)
    source, form = next(builder.disks())
    return source, form, next(iter(builder.volumes), None)


def plan_medium(
    spec: VMSpec, path: str | None, volume: str | None, *, uuid: str, pool: Pool, reporter: Reporter
) -> tuple[str | DiskSource | None, NewVolume | None]:
    """Work out what a medium is that is put into a CD-ROM drive later.

    Returns:
        Its source, and the volume that is going to be made for it.
    """
    builder = _Builder(spec, uuid, pool, reporter, single=True)
    source = builder.medium(path, volume, "cdroms", 0, "iso")
    return source, next(iter(builder.volumes), None)


def _known_of(
    spec: VMSpec, identity: SeedIdentity | None, imported: Imported | None
) -> dict[str, Any]:
    """Return what the record says of how to reach the guest."""
    if imported is not None:
        names = ("instance_id", "host_key", "ssh_user")
        return {name: getattr(imported, name) for name in names}
    if identity is None:
        return {}
    return {
        "instance_id": identity.instance_id,
        "host_key": identity.host_key_public,
        "ssh_user": ssh_user(spec),
    }


def _identity(spec: VMSpec, uuid: str, key: KeyPair) -> SeedIdentity | None:
    if spec.cloud_init is None:
        return None
    own = make_key()
    return SeedIdentity(
        instance_id=uuid,
        host_key_private=own.private,
        host_key_public=own.public,
        authorized_keys=(key.public,),
    )


def _refuse_open_screens(spec: VMSpec) -> None:
    """Refuse a screen without a password where the profile asks for one; no record has it."""
    profile = profile_for(spec.profile, spec.arch, spec.machine)
    if profile is None or not profile.graphics_guarded:
        return
    problems = [
        SpecProblem(f"graphics[{index}].password", f"profile {spec.profile} asks for one")
        for index, server in enumerate(spec.graphics)
        if server.password is None
    ]
    if problems:
        raise SpecError(
            f"whoever is on the host could see the screen of '{spec.name}'",
            problems=problems,
            hint="give it a password, or leave graphics out",
        )


def _check_networks(spec: VMSpec, connection: Connection) -> None:
    """Say that a network or a bridge isn't there while nothing is made yet; starting can wait."""
    for name in dict.fromkeys(nic.network for nic in spec.nics if nic.network is not None):
        is_active(connection, name)
    refuse_foreign_nics(connection, spec.name, spec.tenant, spec.nics)
    for name in dict.fromkeys(nic.bridge for nic in spec.nics if nic.bridge is not None):
        refuse_missing_device(connection, name, "bridge", f"the machine '{spec.name}'")
    for nic in spec.nics:
        if nic.network is not None and nic.forwards:
            refuse_unreachable(connection, nic.network)


class _Builder:
    """Collects the volumes of one machine; of a ``single`` device, which was given without a spec.

    Errors name fields as they were written: that of a single device is in no list.
    """

    def __init__(
        self,
        spec: VMSpec,
        uuid: str,
        pool: Pool,
        reporter: Reporter,
        imported: Imported | None = None,
        *,
        boots: bool = True,
        single: bool = False,
    ) -> None:
        self._single = single
        # What is given a kernel needs no firmware to find one.
        self._boots = boots and spec.boot.kernel is None
        self._imported = () if imported is None else imported.disks
        self._nvram = None if imported is None else imported.nvram
        self._spec = spec
        self._uuid = uuid
        self._pool = pool
        self._reporter = reporter
        self._images: dict[str, Image | ImageName] = {}
        self.volumes: list[NewVolume] = []
        self.made_by_libvirt: list[OwnedVolume] = []

    def _field(self, kind: str, number: int, name: str = "") -> str:
        return name if self._single else join_path(kind, number, name)

    def _owned(self, suffix: str, role: Role) -> OwnedVolume:
        # The UUID makes the name nobody else's, whatever lies in the pool already.
        name = f"{self._spec.name}.{self._uuid}.{suffix}"
        return OwnedVolume(pool=self._pool.name, name=name, role=role)

    def _add(self, volume: NewVolume) -> str:
        self.volumes.append(volume)
        return self._pool.path_of(volume.owned.name)

    def add_content(self, suffix: str, role: Role, content: bytes | Path) -> str:
        """Plan a raw volume that holds the content; returns its path on the host."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        return self._add(
            NewVolume(
                owned=self._owned(suffix, role),
                format="raw",
                capacity=size,
                content=content or None,
            )
        )

    def nvram(self) -> str | None:
        """Plan the file with UEFI's variables; returns its path on the host.

        In the pool it can be read again, which it can't in libvirt's own folder. What it begins
        with lies on the host, where the storage API does not reach: so libvirt copies that.
        """
        if self._spec.firmware.type is not FirmwareType.UEFI:
            return None
        if self._nvram is not None:
            return self.add_content("nvram", Role.NVRAM, self._nvram)
        owned = self._owned("nvram", Role.NVRAM)
        self.made_by_libvirt.append(owned)
        return self._pool.path_of(owned.name)

    def upload(self, path: str | None, field: str, suffix: str, role: Role) -> str | None:
        """Plan the upload of a client's file; returns its path on the host."""
        if path is None:
            return None
        file = Path(path).expanduser()
        try:
            with file.open("rb"):
                return self.add_content(suffix, role, file)
        except OSError as error:
            raise unreadable(field, path, error) from error

    def medium(
        self, path: str | None, volume: str | None, field: str, number: int, kind: str
    ) -> str | DiskSource | None:
        """Plan what lies in a drive; returns its path on the host, or what else it is."""
        if volume is not None:
            where = self._field(field, number, "volume")
            return existing_source(self._pool, volume, format="raw", field=where)
        suffix = f"{field}{number}.{kind}"
        return self.upload(path, self._field(field, number, "path"), suffix, Role.MEDIUM)

    def disks(self) -> Iterator[tuple[str | DiskSource | None, str]]:
        """Plan the disks; yields the path on the host, or what else it is, and the format."""
        targets = disk_targets(self._spec)
        for number, (disk, target) in enumerate(zip(self._spec.disks or (), targets, strict=True)):
            field = self._field("disks", number)
            if disk.network is not None:
                yield None, disk.format or "raw"
                continue
            if disk.volume is not None:
                kind = disk.format or "qcow2"
                where = join_path(field, "volume")
                if not disk.read_only:
                    bases.refuse_writing(disk.volume.rpartition("/")[2])
                yield existing_source(self._pool, disk.volume, format=kind, field=where), kind
                continue
            brought = self._imported[number] if number < len(self._imported) else None
            if brought is not None:
                self._see_whether_it_fits(target, brought.virtual_size)
                yield self.add_content(f"{target}.qcow2", Role.DISK, brought.path), "qcow2"
                continue
            image = disk.image or (self._spec.image if number == 0 else None)
            kind = disk.format or "qcow2"
            named = join_path(field, "image") if disk.image else "image"
            base = None if image is None else self._image(image, named, boots=number == 0)
            capacity = _capacity(disk.size, base, field)
            self._see_whether_it_fits(target, capacity)
            yield (
                self._add(
                    NewVolume(
                        owned=self._owned(f"{target}.{kind}", Role.DISK),
                        format=kind,
                        capacity=capacity,
                        base=base,
                        full=disk.full_clone,
                    )
                ),
                kind,
            )

    def _see_whether_it_fits(self, target: str, size: int) -> None:
        what = f"the disk {target} of '{self._spec.name}'"
        warn_of_outgrowing(self._pool.connection, self._pool.name, what, size)

    def _image(self, reference: str, field: str, *, boots: bool) -> Image | ImageName:
        if reference not in self._images:
            try:
                found = obtain(
                    self._pool,
                    reference,
                    reporter=self._reporter,
                    arch=self._spec.arch,
                    firmware=self._spec.firmware.type if boots and self._boots else None,
                    tenant=self._spec.tenant or "",
                )
            except UsageError as error:
                raise _bad_reference(field, error) from error
            if isinstance(found, Image):
                bases.refuse_without_room(self._pool, found)
            self._images[reference] = found
        return self._images[reference]


def _bad_reference(field: str, error: UsageError) -> SpecError:
    return SpecError(
        "there is an image that can't be fetched",
        problems=[SpecProblem(field, error.brief)],
        hint=error.hint,
    )


def _capacity(size: int | None, base: Image | ImageName | None, field: str) -> int:
    if base is None:
        if size is None:
            problem = SpecProblem(join_path(field, "size"), "a blank disk needs a size")
            raise SpecError(
                "there is a disk without a size",
                problems=[problem],
                hint="write `size: 10GiB`, or name an image or a volume",
            )
        return int(size)
    if size is not None and size < base.virtual_size:
        problem = SpecProblem(
            join_path(field, "size"),
            f"{int(size)} bytes are less than its image's {base.virtual_size}",
        )
        raise SpecError(
            "a disk is smaller than the image it is a clone of",
            problems=[problem],
            hint="leave `size` out, or make it at least as large as the image's disk",
        )
    return int(size or base.virtual_size)
