"""Storage pools of a host: made, listed, removed."""

from __future__ import annotations

import uuid as uuid_module
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeAlias

from vmctl.errors import (
    ConflictError,
    NotFoundError,
    RollbackError,
    UnsupportedError,
    UsageError,
    VmctlError,
    WrongStateError,
)
from vmctl.hypervisor import pool_making
from vmctl.hypervisor import pools as backend
from vmctl.hypervisor.attachment import key_of
from vmctl.hypervisor.connection import Connection, outlasting
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.usage import read_usage
from vmctl.hypervisor.volumes import StoredVolume, VolumeFacts, list_volumes
from vmctl.progress import being_undone
from vmctl.render.pool import render_pool
from vmctl.spec.pool import PoolSpec, PoolType

__all__ = ["PoolInfo", "Pools", "uuid_of"]

PoolInfo: TypeAlias = backend.PoolFacts

# The same spec gives the same UUID: so one can go on with what a killed client began.
_SPACE = uuid_module.UUID("0c4c7f0a-9a52-4d3b-8a0c-2b6c4a2f6f5e")
_CAN_BE_INITIALIZED = {PoolType.FS, PoolType.LOGICAL, PoolType.DISK, PoolType.ZFS}
# Their volumes are a server's: libvirt shows them, and neither makes nor deletes any.
_OF_A_SERVER = frozenset({"iscsi", "iscsi-direct", "scsi", "mpath"})
_SHOWN = 5


def uuid_of(spec: PoolSpec) -> str:
    """Return the UUID that a pool made from a spec has."""
    return str(uuid_module.uuid5(_SPACE, render_pool(spec)))


class Pools:
    """The storage pools of one host."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, spec: PoolSpec, *, initialize: bool = False) -> PoolInfo:
        """Make a pool: its folder where that is missing, started, kept, and started with the host.

        If anything fails, nothing is left. If the client is killed, calling it again goes on.

        Args:
            spec: What is wanted.
            initialize: Whether a file system (fs), partition table (disk), volume group (logical)
                or zpool (zfs) is made on its devices. Devices on which libvirt finds something are
                refused.

        Raises:
            UnsupportedError: The host's libvirt has no such pools.
            ConflictError: There is a pool of that name, or one with that folder.
            UsageError: There is nothing to initialize in a pool of that type.
            HypervisorError: libvirt can't start it; why is in ``details``.
        """
        if initialize and spec.type not in _CAN_BE_INITIALIZED:
            raise UsageError(
                f"there is nothing to initialize in a pool of type {spec.type}",
                hint="leave it out; a folder that is missing is made anyway",
            )
        self._refuse_unsupported(spec.type)
        uuid = uuid_of(spec)
        new_folder = False
        if not self._is_half_made(spec, uuid):
            new_folder = pool_making.bring_up(
                self._connection, spec, uuid=uuid, initialize=initialize
            )
        try:
            pool_making.keep(self._connection, spec, uuid=uuid)
        except BaseException as error:
            with being_undone():
                self._undo(spec, uuid, new_folder=new_folder, cause=error)
            raise
        return self.info(spec.name)

    def _refuse_unsupported(self, kind: PoolType) -> None:
        supported = backend.supported_types(self._connection)
        if supported is not None and kind not in supported:
            raise UnsupportedError(
                f"the libvirt at {self._connection.uri} has no driver for pools of type {kind}",
                hint=f"install it on the host (on Debian: libvirt-daemon-driver-storage-{kind}), "
                "and restart libvirtd",
            )

    def _is_half_made(self, spec: PoolSpec, uuid: str) -> bool:
        """Return whether a client that made this very pool was killed before libvirt kept it.

        Raises:
            ConflictError: There is a pool of that name that is whole, or another.
        """
        try:
            found = self.info(spec.name)
        except NotFoundError:
            return False
        if found.uuid == uuid and not found.persistent:
            return True
        raise pool_making.name_is_taken(spec.name)

    def _undo(self, spec: PoolSpec, uuid: str, *, new_folder: bool, cause: BaseException) -> None:
        try:
            outlasting(lambda: backend.forget(self._connection, spec.name))
            if new_folder:
                pool_making.delete_folder(self._connection, spec, uuid=uuid)
        except VmctlError as failure:
            raise RollbackError(
                f"the pool '{spec.name}' could not be made, and not all of it could be undone",
                left=(f"the pool '{spec.name}'",),
                details=f"it failed because: {cause}\nthe undoing failed because: {failure}",
                hint=f"mend the cause, then `vmctl pool delete {spec.name}`",
            ) from cause

    def list(self) -> Sequence[PoolInfo]:
        """Return every pool of the host, whoever made it, sorted by name."""
        return backend.list_pools(self._connection)

    def info(self, name: str) -> PoolInfo:
        """Return all that is known of a pool.

        Raises:
            NotFoundError: There is none of that name.
        """
        return backend.facts_of(self._connection, name)

    def delete(self, name: str, *, with_volumes: bool = False, keep_volumes: bool = False) -> None:
        """Remove a pool.

        One that a machine uses is never removed. One that has volumes is removed only if it is said
        what becomes of them; those of an iSCSI server stay there anyway.

        Args:
            name: Which.
            with_volumes: Delete its volumes first, and its folder if that is empty then.
            keep_volumes: Leave its volumes where they are; libvirt forgets them.

        Raises:
            NotFoundError: There is none of that name.
            ConflictError: A machine uses it, or it has volumes.
            UsageError: Both were asked for, or its volumes are a server's.
        """
        if with_volumes and keep_volumes:
            raise UsageError(
                "volumes are deleted or kept, and not both", hint="choose one of the two"
            )
        pool = self.info(name)
        if with_volumes and pool.type in _OF_A_SERVER:
            raise UsageError(
                f"the volumes of the pool '{name}' are its server's, and can't be deleted here",
                hint="leave with_volumes out: the pool goes, and they stay",
            )
        self._refuse_used(pool)
        pool = self.info(name)
        left_alone = keep_volumes or pool.type in _OF_A_SERVER or pool.state == "inactive"
        if with_volumes and pool.state == "inactive":
            open_pool(self._connection, name)
            left_alone = False
        volumes = [] if left_alone else self._names_in(name)
        if volumes and not with_volumes:
            shown = ", ".join(volumes[:_SHOWN]) + (" ..." if len(volumes) > _SHOWN else "")
            raise ConflictError(
                f"the pool '{name}' has {len(volumes)} volumes",
                details=shown,
                hint="say what becomes of them: `--with-volumes` deletes them, `--keep-volumes` "
                "leaves them where they are",
            )
        for volume in volumes:
            StoredVolume(self._connection, name, volume).delete()
        backend.forget(self._connection, name, folder=with_volumes)

    def _names_in(self, name: str) -> Sequence[str]:
        pool = open_pool(self._connection, name)
        pool.refresh()
        return pool.names()

    def _refuse_used(self, pool: PoolInfo) -> None:
        usage = read_usage(self._connection)
        users = list(usage.users_of_pool(pool.name, pool.target))
        volumes: list[VolumeFacts] = []
        # One that has lost its device is stopped by libvirt when it is looked through.
        with suppress(WrongStateError):
            volumes = list_volumes(self._connection, pool.name)
        for volume in volumes:
            found = usage.users(pool.name, volume.name, key_of(self._connection, volume))
            users += [user for user in found if user.kind == "machine"]
        if users:
            raise ConflictError(
                f"the pool '{pool.name}' is used by {', '.join(map(str, dict.fromkeys(users)))}",
                hint="delete what uses it first, or move it elsewhere",
            )
