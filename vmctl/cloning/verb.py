"""The verb that makes a machine of a machine: what `VM` can do with all of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmctl.host import Host
    from vmctl.hypervisor.domains import Domain
    from vmctl.hypervisor.metadata import Record
    from vmctl.progress import ProgressCallback
    from vmctl.snapshots import Snapshots
    from vmctl.vm import VM

__all__ = ["Cloning"]


class Cloning:
    """The part of `VM` that clones."""

    _host: Host
    _domain: Domain

    if TYPE_CHECKING:

        def _record(self) -> Record: ...

        @property
        def snapshots(self) -> Snapshots:
            """Its snapshots."""

    def clone(
        self,
        name: str,
        *,
        linked: bool = False,
        from_snapshot: str | None = None,
        values: Mapping[str, Any] | None = None,
        start: bool = False,
        tell: Callable[[str], None] | None = None,
        progress: ProgressCallback | None = None,
    ) -> VM:
        """Make another machine with the same disks, and an identity of its own. It may run.

        A full clone shares nothing: the disks are copied, with all that lies underneath them. Of a
        running machine they are copied as they are at one moment, with the guest's file systems
        quiesced where its agent can do that. A linked one is made at once and takes no room: its
        disks lie on the files that an external snapshot froze, which stay as long as it does.

        The clone has its own UUID, MAC addresses, UEFI variables, TPM and port of its display, and
        does not start together with the host. Where there is cloud-init, its guest gets its own
        host name, machine-id, SSH host key and network configuration at its first start; what the
        source was told to do at its own is not done again.

        Args:
            name: The clone's name.
            linked: Whether its disks lie on those of a snapshot, and are no copies.
            from_snapshot: The snapshot that it is made of, for a linked one an external one. Of an
                internal one, the machine must be off, and its disks lie on its image as before.
                None: the machine as it is, of which a linked clone takes a snapshot with its own
                name.
            values: What it has in the place of what only one machine can have, by path:
                ``{"nics[0].address": "192.0.2.11/24"}``.
            start: Whether it is started, and its guest waited for. If that fails, it stays.
            tell: Told one sentence for each thing that is not as in its source, or is, though one
                could think otherwise.
            progress: Told of the phases ``define`` and ``disks``, of ``snapshot`` where one is
                taken, and of those of a start.

        Raises:
            ConflictError: vmctl did not make it, there is a machine of that name, or somebody is at
                work on it; or it can't have an external snapshot beside those that it has.
            NotFoundError: There is no such snapshot.
            WrongStateError: It was never provisioned, or has a saved state; or it is not off, and
                the snapshot is an internal one.
            UnsupportedError: A disk can't be copied; or it has an address that two machines can't
                both have, and none is given for the clone.
            UsageError: That can't be a machine's name, or a value is none that a clone can have.
            ResourceError: The pool has no room.
            RollbackError: It failed, and not all of it could be undone.
        """
        from vmctl.cloning import linking, making

        if linked and from_snapshot is None:
            made = linking.clone(
                self._domain,
                self._record(),
                name,
                snapshots=self.snapshots,
                values=values or {},
                around=self._host.surroundings(),
                progress=progress,
            )
        else:
            made = making.clone(
                self._domain,
                self._record(),
                name,
                snapshot=from_snapshot,
                linked=linked,
                values=values or {},
                around=self._host.surroundings(),
                progress=progress,
            )
        if tell is not None:
            for note in made.notes:
                tell(note)
        clone = self._host.get(made.domain.uuid)
        if start:
            clone.start(progress=progress)
            clone.wait(progress=progress)
        return clone
