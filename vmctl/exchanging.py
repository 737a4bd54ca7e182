"""The content of a machine's disks exchanged for another: all of it at once, or none of it.

What comes is made beside what goes, and is in the record before it exists. One new definition names
all of it: that is the moment from which on the machine has it. So which of both is to be removed,
whoever comes after a client that was killed sees in the definition.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxml import etree

from vmctl import detours
from vmctl.errors import HypervisorError, WrongStateError
from vmctl.flatten import images_still_under
from vmctl.hypervisor import backups, hotplug, pools
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Exchange, OwnedVolume, Phase, Role
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.progress import Phase as ReportedPhase
from vmctl.progress import being_undone
from vmctl.render.volume import render_volume

__all__ = ["Coming", "exchange", "settle"]

# Longer than any upload takes.
_CLAIM_SECONDS = 86400.0


@dataclass(frozen=True, kw_only=True)
class Coming:
    """What comes into the place of a volume.

    Attributes:
        going: That volume, which is the machine's own.
        label: What tells it from what else comes: ``vda.qcow2``.
        content: The file on the client, written as the volume is.
    """

    going: OwnedVolume
    label: str
    content: Path


def exchange(
    domain: Domain,
    seen: detours.Seen,
    coming: Sequence[Coming],
    spec: dict[str, Any],
    phase: ReportedPhase,
) -> None:
    """Give a machine that is off other content on its disks, and what else it owns.

    Args:
        domain: The machine; it has no snapshots, and nobody is at work on it.
        seen: It, as it was when this was planned, which may have been long ago.
        coming: What comes; all of it, or none.
        spec: What the record says of its spec from then on.
        phase: Told how far it is.
    """
    suffix = secrets.token_hex(4)
    made = tuple(_named_anew(entry, domain, suffix) for entry in coming)
    plan = Exchange(coming=made, going=tuple(entry.going for entry in coming), spec=spec)
    with claimed(_CLAIM_SECONDS) as claim:
        detours.begin(domain, Phase.RESTORING, claim, seen=seen, makes=made, exchange=plan)
        try:
            for entry, volume in zip(coming, made, strict=True):
                _upload(domain, volume, entry.content, phase)
            _refuse_started(domain)
            _switch(domain, plan)
        except BaseException:
            with being_undone():
                outlasting(lambda: settle(domain))
            raise
        with being_undone():
            outlasting(lambda: settle(domain))


def _named_anew(entry: Coming, domain: Domain, suffix: str) -> OwnedVolume:
    going = entry.going
    name = f"{domain.name}.{domain.uuid}.{suffix}.{entry.label}"
    return OwnedVolume(pool=going.pool, name=name, role=going.role)


def _upload(domain: Domain, owned: OwnedVolume, content: Path, phase: ReportedPhase) -> None:
    volume = StoredVolume(domain.connection, owned.pool, owned.name)
    size = content.stat().st_size
    done = 0

    def sent(count: int) -> None:
        nonlocal done
        done += count
        phase.update(f"uploading {content.stem}", done / max(size, 1))

    volume.create(render_volume(volume.name, capacity=size, format="raw"))
    with content.open("rb") as file:
        volume.upload(file.fileno(), start=0, length=size, sparse=True, sent=sent)
    # Until the pool has looked into it, libvirt takes it for what it was made as.
    pools.refresh(domain.connection, owned.pool)


def _refuse_started(domain: Domain) -> None:
    if domain.is_active():
        state = domain.state()
        raise WrongStateError(
            f"'{domain.name}' was started while what comes onto its disks was uploaded",
            state=state.value,
            hint="see that it is off, and leave it alone until that has ended",
        )


def _switch(domain: Domain, plan: Exchange) -> None:
    paths = dict(zip(_paths(domain, plan.going), _paths(domain, plan.coming), strict=True))

    def changed(root: etree._Element) -> etree._Element:
        found = set()
        for disk in root.findall("devices/disk"):
            source = disk.find("source")
            path = "" if source is None else source.get("file", "")
            if source is not None and path in paths:
                source.set("file", paths[path])
                found.add(path)
                for below in disk.findall("backingStore"):
                    disk.remove(below)
        nvram = root.find("os/nvram")
        if nvram is not None and nvram.text in paths:
            found.add(nvram.text)
            nvram.text = paths[nvram.text]
        if found != set(paths):
            raise HypervisorError(
                f"the definition of '{domain.name}' does not have all of its disks any more",
                hint="somebody changes it: try again when that has ended",
            )
        return root

    hotplug.redefine(domain, changed)


def _paths(domain: Domain, volumes: Sequence[OwnedVolume]) -> list[str]:
    return [
        pools.open_pool(domain.connection, volume.pool).path_of(volume.name) for volume in volumes
    ]


def settle(domain: Domain) -> None:
    """Remove what came, or what went: what the definition has stays."""
    record = domain.record()
    if record is None or record.phase is not Phase.RESTORING:
        return
    plan = record.exchange
    if plan is None:
        detours.end(domain, record)
        return
    root = hotplug.definition(domain, later=True)
    disks = [volume for volume in plan.coming if volume.role is Role.DISK]
    done = all(hotplug.mentions(root, path) for path in _paths(domain, disks))
    leaving = plan.going if done else plan.coming
    if domain.is_active():
        now = hotplug.definition(domain, later=False)
        if any(hotplug.mentions(now, path) for path in _paths(domain, leaving)):
            raise WrongStateError(
                f"'{domain.name}' runs on disks that it has no more at its next start",
                state=domain.state().value,
                hint="stop it, then `vmctl gc` removes them",
            )
    for owned in leaving:
        StoredVolume(domain.connection, owned.pool, owned.name).delete()
    if done:
        # They are of disks that are not there any more.
        backups.drop_checkpoints(domain)
    detours.end(
        domain,
        record,
        exchange=None,
        spec=plan.spec if done else record.spec,
        volumes=tuple(volume for volume in record.volumes if volume not in leaving),
        bases=images_still_under(domain, record),
    )
