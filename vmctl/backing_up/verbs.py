"""The verbs of `VM` that are about backups of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from vmctl.backing_up.manifest import Backup
    from vmctl.host import Host
    from vmctl.hypervisor.domains import Domain
    from vmctl.hypervisor.metadata import Record
    from vmctl.progress import ProgressCallback

__all__ = ["BackingUp"]


class BackingUp:
    """The part of `VM` that backs it up, and takes it back."""

    if TYPE_CHECKING:
        _host: Host
        _domain: Domain

        def _record(self) -> Record: ...

        def _forget_connection(self) -> None: ...

    def backup(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        full: bool = False,
        quiesce: bool | None = None,
        pool: str | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> Backup:
        """Back it up, while it runs or while it is off: all of it, or what was changed since.

        It is what its disks hold at one moment, near the beginning. A guest runs on; one that is
        stopped before QEMU has written the backup ends that.

        Args:
            target: A folder of backups, which is made when there is none; or an open file, a pipe
                say, which gets a bundle: that is a full backup on its own.
            full: Whether it shall be a full one, where what was changed would do.
            quiesce: Whether its agent freezes the file systems for the moment: True, or it fails;
                False: no; None: if there is an agent that can.
            pool: The pool of the host that it passes through; None: the one its disks are in.
            timeout: Seconds that QEMU has for writing it; None: a day.
            progress: Told of the phases ``backup`` and ``download``; and ``write`` of a stream.

        Returns:
            The backup: its ID, its kind, why it is a full one, what state its file systems are in.

        Raises:
            ConflictError: vmctl did not make it, somebody is at work on it or in the folder.
            WrongStateError: It went off in the middle, has a saved state, or is not ready yet.
            UsageError: The folder has something else in it.
            UnsupportedError: It has no disks, or no pool of files.
            ResourceError: There is no room on the host, or here.
            GuestError: It shall be quiesced, and can't be.
            WaitTimeoutError: QEMU did not write it in time.
        """
        from vmctl.backing_up import creating
        from vmctl.backing_up.taking import Wishes

        wishes = Wishes(quiesce=quiesce, pool=pool, default_pool=self._host.pool, timeout=timeout)
        record = self._record()
        if isinstance(target, str | os.PathLike):
            return creating.to_folder(
                self._domain, record, Path(target), full=full, wishes=wishes, progress=progress
            )
        return creating.to_stream(self._domain, record, target, wishes=wishes, progress=progress)

    def restore(
        self,
        target: str | os.PathLike[str],
        *,
        id: str | None = None,  # noqa: A002 - the field's own word
        progress: ProgressCallback | None = None,
    ) -> tuple[str, ...]:
        """Take it back to a backup: its disks become what they were. It must be off.

        All of the backup is verified first. Interrupted at any moment, the machine has either all
        of its disks of just now, or all of the backup's. Its hardware stays as it is now.
        `Host.restore` makes a new machine instead.

        Args:
            target: The folder of backups.
            id: Which backup; None: its newest.
            progress: Told of the phases ``image`` and ``restore``.

        Returns:
            One sentence for each thing that is not as it was.

        Raises:
            NotFoundError: There is no such backup of it.
            ConflictError: It has snapshots, or other disks than the backup; vmctl did not make it,
                or somebody is at work on it.
            WrongStateError: It is not off, or has a saved state.
            ImageError: A file of the backup, or of one that it needs, is damaged or missing.
            UnsupportedError: A disk of it is not its own, or it has another processor.
            ResourceError: This machine or the pool has no room.
        """
        from vmctl.backing_up import replacing, restoring

        record = self._record()
        chain = restoring.open_chain(Path(target).absolute(), self._domain.uuid, id)
        self._forget_connection()
        return replacing.restore_in_place(self._domain, record, chain, progress=progress)
