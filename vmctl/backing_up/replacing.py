"""A backup restored to the machine that it was made of: its disks become what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vmctl import detours, power, settling
from vmctl.backing_up.restoring import Chain
from vmctl.errors import ConflictError, UnsupportedError, WrongStateError
from vmctl.exchanging import Coming, exchange
from vmctl.hypervisor import pools, snapshots
from vmctl.hypervisor.domains import DiskFile, Domain
from vmctl.hypervisor.exports import refuse_while_exported
from vmctl.hypervisor.metadata import OwnedVolume, Record, Role
from vmctl.hypervisor.usage import VolumeUser, read_usage
from vmctl.imaging.nvram import check_nvram
from vmctl.imaging.scratch import saying_when_full, scratch_folder
from vmctl.progress import Phase, ProgressCallback, Reporter
from vmctl.render.domain import disk_targets
from vmctl.spec import VMSpec

__all__ = ["restore_in_place"]


def restore_in_place(
    domain: Domain, record: Record, chain: Chain, *, progress: ProgressCallback | None
) -> tuple[str, ...]:
    """Give a machine the disks that a backup has; see `VM.restore`."""
    seen = _ready(domain, record)
    record = seen.record
    _refuse_another(domain, record, chain)
    going = _going(domain, record, chain)
    reporter = Reporter(domain.name, progress)
    remarks: list[str] = []
    with saying_when_full(f"the disks of '{domain.name}'"), scratch_folder() as scratch:
        with reporter.phase("image") as phase:
            chain.check(phase)
            coming = [_disk(chain, disk, owned, scratch, phase) for disk, owned in going]
            nvram = _nvram(domain, record, chain, remarks)
            if nvram is not None:
                coming.append(nvram)
            chain.refuse_changed()
        _refuse_without_room(domain, coming)
        with reporter.phase("restore") as phase:
            exchange(domain, seen, coming, _spec(record, chain, going), phase)
    if (record.spec.get("firmware") or {}).get("tpm"):
        remarks.append("what its TPM holds is as it was just now")
    return tuple(remarks)


def _ready(domain: Domain, record: Record) -> detours.Seen:
    if record.phase.is_detour and record.claim is not None and record.claim.is_abandoned():
        settling.settle(domain, record)
    seen = detours.look(domain)
    record = seen.record
    detours.refuse_work_in_progress(domain, record)
    refuse_while_exported(domain.name, record)
    state = domain.state()
    if domain.is_active():
        raise WrongStateError(
            f"'{domain.name}' is {state.value}: its disks are in use",
            state=state.value,
            hint=f"stop it first, `vmctl stop {domain.name}`; or restore it under a new name",
        )
    power.refuse_saved(domain, "restored")
    if found := snapshots.list_snapshots(domain):
        raise ConflictError(
            f"'{domain.name}' has snapshots, which need its disks as they are: "
            f"{', '.join(entry.name for entry in found)}",
            hint=f"delete them first: `vmctl snapshot delete {domain.name} NAME`; or restore it "
            "under a new name: `vmctl backup restore --name`",
        )
    return seen


def _refuse_another(domain: Domain, record: Record, chain: Chain) -> None:
    last = chain.last
    if last.uuid != domain.uuid:
        raise ConflictError(
            f"the backup {last.id} is not of '{domain.name}': it is of '{last.machine}', whose "
            f"UUID is {last.uuid}",
            hint="restore it under a new name: `vmctl backup restore --name`",
        )
    architecture = VMSpec.from_record(record.spec).arch.value
    if last.architecture != architecture:
        raise UnsupportedError(
            f"the backup {last.id} is of an {last.architecture[:40]} machine, and '{domain.name}' "
            f"is {architecture}",
            hint="restore an earlier backup",
        )


def _going(domain: Domain, record: Record, chain: Chain) -> list[tuple[DiskFile, OwnedVolume]]:
    """Return the disks whose content goes; one that is never written to stays as it is.

    Raises:
        ConflictError: The machine has other disks than the backup, or one is needed by others.
        UnsupportedError: One is not the machine's own, or no file.
    """
    disks = [disk for disk in domain.disks() if not disk.read_only]
    there = {target for target, file in chain.by_target.items() if not file.read_only}
    if {disk.target for disk in disks} != there:
        raise ConflictError(
            f"'{domain.name}' has the disks {', '.join(sorted(disk.target for disk in disks))}, "
            f"and the backup {chain.last.id} has {', '.join(sorted(there))}",
            hint="attach or detach what differs, or restore it under a new name",
        )
    own = {
        pools.open_pool(domain.connection, volume.pool).path_of(volume.name): volume
        for volume in record.volumes
        if volume.role is Role.DISK
        and pools.facts_of(domain.connection, volume.pool).type in pools.FILE_POOLS
    }
    for disk in disks:
        if disk.path not in own:
            raise UnsupportedError(
                f"the disk {disk.target} of '{domain.name}' is not its own file, so it can't be "
                "exchanged for another",
                hint="restore it under a new name",
            )
    _refuse_used(domain, [(disk, own[disk.path]) for disk in disks])
    return [(disk, own[disk.path]) for disk in disks]


def _refuse_used(domain: Domain, going: list[tuple[DiskFile, OwnedVolume]]) -> None:
    """Keep a disk's file that something else lies on, or that another machine has."""
    usage = read_usage(domain.connection)
    for disk, owned in going:
        others = [
            user
            for user in usage.users(owned.pool, owned.name, disk.path)
            if user != VolumeUser("machine", domain.name)
        ]
        if others:
            raise ConflictError(
                f"what is on the disk {disk.target} of '{domain.name}' is needed by "
                f"{', '.join(map(str, others))}, and would go",
                hint="restore it under a new name",
            )


def _disk(chain: Chain, disk: DiskFile, owned: OwnedVolume, scratch: Path, phase: Phase) -> Coming:
    path = chain.disk(disk.target, scratch, phase, form=disk.format)
    return Coming(going=owned, label=f"{disk.target}.{disk.format}", content=path)


def _nvram(domain: Domain, record: Record, chain: Chain, remarks: list[str]) -> Coming | None:
    """Return UEFI's variables of the backup, where the machine's firmware can read them."""
    file, owned = chain.last.file("nvram"), record.volume(Role.NVRAM)
    code, _variables = domain.firmware()
    if not code:
        return None
    if file is None or owned is None or file.target != code.rpartition("/")[2]:
        remarks.append("the firmware's variables are as they were just now")
        return None
    path = chain.links[-1].folder / file.name
    check_nvram(path)
    return Coming(going=owned, label="nvram", content=path)


def _refuse_without_room(domain: Domain, coming: list[Coming]) -> None:
    needed: dict[str, int] = {}
    for entry in coming:
        size = entry.content.stat().st_blocks * 512
        needed[entry.going.pool] = needed.get(entry.going.pool, 0) + size
    for pool, size in needed.items():
        pools.refresh(domain.connection, pool)
        available = pools.facts_of(domain.connection, pool).available
        if available < size:
            raise pools.no_room(
                pool,
                f"for what '{domain.name}' gets, beside what it has until then",
                details=f"it takes {size} bytes, and {available} are free",
            )


def _spec(
    record: Record, chain: Chain, going: list[tuple[DiskFile, OwnedVolume]]
) -> dict[str, Any]:
    """Return the recorded spec: disks that stand alone now, and are as large as they were."""
    spec = VMSpec.from_record(record.spec)
    restored = {disk.target for disk, _owned in going}
    disks: list[dict[str, Any]] = [dict(disk) for disk in record.spec.get("disks") or ()]
    for number, target in enumerate(disk_targets(spec)):
        if target not in restored:
            continue
        size = chain.by_target[target].virtual_size
        image = disks[number].get("image") or (record.spec.get("image") if number == 0 else None)
        if image:
            disks[number]["full_clone"] = True
        if disks[number].get("size") and int(spec.disks[number].size or 0) != size:
            disks[number]["size"] = f"{size}B"
    return {**record.spec, "disks": disks}
