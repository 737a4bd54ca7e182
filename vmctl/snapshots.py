"""Snapshots of one machine: taken, listed, gone back to, deleted."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from lxml import etree

from vmctl import power
from vmctl.errors import ConflictError, UnsupportedError, UsageError
from vmctl.hypervisor import snapshots as backend
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.exports import refuse_while_exported
from vmctl.hypervisor.metadata import Record, Role
from vmctl.progress import ProgressCallback, Reporter
from vmctl.render.facts import HostFacts
from vmctl.render.snapshot import render_snapshot

__all__ = ["Snapshot", "Snapshots"]

Snapshot: TypeAlias = backend.SnapshotFacts

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


# Of a spec, what a snapshot does not hold.
_NO_DEVICES = ("name", "labels", "autostart")


class Snapshots:
    """The snapshots of one machine.

    They are internal ones: they lie in the machine's own qcow2 disks, all disks together, and for a
    running machine its memory as well.
    """

    def __init__(
        self,
        domain: Domain,
        *,
        facts: Callable[[], HostFacts],
        record: Callable[[], Record],
        forget_connection: Callable[[], None],
    ) -> None:
        self._domain = domain
        self._facts = facts
        self._record = record
        self._forget_connection = forget_connection

    def create(
        self, name: str, *, description: str = "", progress: ProgressCallback | None = None
    ) -> Snapshot:
        """Take a snapshot; a running machine's memory is in it, and it runs on afterwards.

        Args:
            name: At most 63 letters, digits and ``. _ -``.
            description: What to remember of it.
            progress: Told of the one phase, ``snapshot``.

        Raises:
            UsageError: That is no name for a snapshot.
            ConflictError: There is one of that name, or the machine is not ready yet, or it is
                being exported.
            UnsupportedError: The machine can't be snapshotted: a disk is not qcow2, or it has UEFI
                and its NVRAM is not qcow2, or libvirt is older than 10.10.
        """
        if _NAME.fullmatch(name) is None:
            raise UsageError(
                f"{name[:80]!r} can't be the name of a snapshot",
                hint="use up to 63 letters, digits, dots, dashes and underscores",
            )
        record = self._record()
        self._refuse_work_in_progress(record)
        if record.volume(Role.SEED) is not None:
            raise ConflictError(
                f"'{self._domain.name}' is not ready yet: its seed is still in its drive",
                hint=f"wait for it first: `vmctl wait {self._domain.name}`",
            )
        power.refuse_saved(self._domain, "snapshotted")
        self._refuse_impossible()
        xml = render_snapshot(name, description=description)
        with Reporter(self._domain.name, progress).phase("snapshot"):
            return backend.create(self._domain, xml, name=name)

    def _refuse_work_in_progress(self, record: Record) -> None:
        """Keep what is in the middle of something out of a snapshot, and from being undone."""
        refuse_while_exported(self._domain.name, record)
        if record.claim is not None:
            raise ConflictError(
                f"somebody is at work on '{self._domain.name}': it is {record.phase.value}",
                hint="wait until that has ended; `vmctl gc` removes what a killed client left",
            )

    def _refuse_impossible(self) -> None:
        """Say in one sentence why it can't be, before the guest is paused for it."""
        root = etree.fromstring(self._domain.xml())
        name = self._domain.name
        nvram = root.find("os/nvram")
        able = "internal-snapshot-nvram" in self._facts().features
        if nvram is not None and not (able and nvram.get("format") == "qcow2"):
            raise UnsupportedError(
                f"'{name}' has UEFI, and libvirt can snapshot its NVRAM only where that is qcow2, "
                "from 10.10 on",
                hint="machines with `firmware: bios` can be snapshotted",
            )
        for disk in root.findall("devices/disk"):
            driver, target = disk.find("driver"), disk.find("target")
            medium = disk.get("device") in {"cdrom", "floppy"} and disk.find("source") is None
            read_only = disk.find("readonly") is not None
            if medium or read_only or (driver is not None and driver.get("type") == "qcow2"):
                continue
            where = "?" if target is None else target.get("dev")
            raise UnsupportedError(
                f"the disk '{where}' of '{name}' is not qcow2, so it can't be snapshotted",
                hint="snapshots lie inside qcow2 disks",
            )

    def list(self) -> list[Snapshot]:
        """Return the snapshots, the oldest first."""
        return backend.list_snapshots(self._domain)

    def revert(self, name: str, *, progress: ProgressCallback | None = None) -> None:
        """Take the machine back to a snapshot: its disks, and its memory if that is in it.

        A snapshot of a running machine leaves it running, one of a machine that was off leaves it
        off. What was not snapshotted is lost.

        Args:
            name: Which.
            progress: Told of the one phase, ``revert``.

        Raises:
            NotFoundError: There is no such snapshot.
            ConflictError: Somebody is at work on the machine, or exports it.
            WrongStateError: The machine has a saved state.
        """
        record = self._record()
        self._refuse_work_in_progress(record)
        power.refuse_saved(self._domain, "reverted")
        self._forget_connection()
        with Reporter(self._domain.name, progress).phase("revert"):
            backend.revert(self._domain, name)
        # The snapshot brought back the metadata of its time; what vmctl knows now is newer, but for
        # the devices, which are those of that time again. What is no device is as it was just now.
        then = self._domain.record()
        if then is not None:
            owned = tuple(dict.fromkeys((*record.volumes, *then.volumes)))
            kept = {name: record.spec[name] for name in _NO_DEVICES if name in record.spec}
            record = replace(record, spec={**then.spec, **kept}, volumes=owned)
        self._domain.write_record(record)
        if self._domain.is_active():
            power.apply_forwards(self._domain, record.spec)

    def delete(self, name: str, *, progress: ProgressCallback | None = None) -> None:
        """Delete a snapshot; later ones stay whole.

        Args:
            name: Which.
            progress: Told of the one phase, ``delete``.

        Raises:
            ConflictError: vmctl did not make the machine, or it is being exported.
            NotFoundError: There is no such snapshot.
        """
        refuse_while_exported(self._domain.name, self._record())
        with Reporter(self._domain.name, progress).phase("delete"):
            backend.delete(self._domain, name)
