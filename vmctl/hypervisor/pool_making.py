"""Making storage pools: brought up first, and kept by libvirt once they run."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import libvirt

from vmctl.errors import ConflictError, VmctlError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.pools import list_pools
from vmctl.render.pool import render_pool
from vmctl.spec.pool import PoolSpec, PoolType

__all__ = ["bring_up", "delete_folder", "keep", "name_is_taken"]

_FOLDERS = {PoolType.DIR, PoolType.FS, PoolType.NETFS}


def bring_up(connection: Connection, spec: PoolSpec, *, uuid: str, initialize: bool) -> bool:
    """Make a pool that runs and that libvirt doesn't keep yet; returns whether its folder is new.

    libvirt itself takes back a pool that it can't start. So a client that is killed here leaves
    nothing, or a pool that works until libvirtd ends.

    Args:
        connection: The host.
        spec: What is wanted.
        uuid: Its UUID.
        initialize: Whether a file system, partition table, volume group or zpool is made, on
            devices on which libvirt finds nothing.

    Raises:
        ConflictError: There is one of that name, or one with that folder or source.
    """
    xml = render_pool(spec, uuid=uuid)
    flags = _initializing(spec.type) if initialize else 0
    with _creating(connection, spec, uuid):
        try:
            connection.raw.storagePoolCreateXML(xml, flags)
        except libvirt.libvirtError as error:
            missing = spec.type in _FOLDERS and _lacks_folder(connection, spec, uuid, error)
            if initialize or not missing:
                raise
        else:
            return initialize and spec.type in _FOLDERS
        try:
            connection.raw.storagePoolCreateXML(xml, libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD)
        except BaseException:
            delete_folder(connection, spec, uuid=uuid)
            raise
    return True


def _initializing(kind: PoolType) -> int:
    flags: int = libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD
    # zpool refuses devices that are in use by itself, and libvirt takes no flag for it.
    if kind is not PoolType.ZFS:
        flags |= libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD_NO_OVERWRITE
    return flags


@contextmanager
def _creating(connection: Connection, spec: PoolSpec, uuid: str) -> Iterator[None]:
    def conflict(_error: libvirt.libvirtError) -> VmctlError | None:
        with suppress(VmctlError):
            for other in list_pools(connection):
                if other.name == spec.name and other.uuid != uuid:
                    return name_is_taken(spec.name)
                if spec.target and other.target == spec.target and other.uuid != uuid:
                    return ConflictError(
                        f"the folder {spec.target} is that of the pool '{other.name}' already",
                        hint="choose another folder, or use that pool",
                    )
        return None

    with calling(f"create the pool '{spec.name}'", on=conflict):
        yield


def name_is_taken(name: str) -> ConflictError:
    """Return the error for a name that is in use."""
    return ConflictError(
        f"there is a pool '{name}' already",
        hint=f"choose another name, or see what it is: `vmctl pool info {name}`",
    )


def _lacks_folder(
    connection: Connection, spec: PoolSpec, uuid: str, error: libvirt.libvirtError
) -> bool:
    """Return whether a pool could not start because its folder isn't there.

    Of a pool that is mounted, the folder is looked at through a pool of type dir, for a moment.
    """
    if spec.type is not PoolType.DIR:
        try:
            connection.raw.storagePoolCreateXML(_as_folder(spec, uuid), 0).destroy()
        except libvirt.libvirtError as probe:
            error = probe
        else:
            return False
    return is_code(error, libvirt.VIR_ERR_SYSTEM_ERROR) and error.get_int1() == errno.ENOENT


def _as_folder(spec: PoolSpec, uuid: str) -> str:
    return render_pool(PoolSpec(name=spec.name, type=PoolType.DIR, target=spec.target), uuid=uuid)


def delete_folder(connection: Connection, spec: PoolSpec, *, uuid: str) -> None:
    """Remove the folder of a pool that libvirt doesn't know (any more), if it is empty."""
    with suppress(libvirt.libvirtError):
        raw = connection.raw.storagePoolDefineXML(_as_folder(spec, uuid), 0)
        try:
            raw.delete(0)
        finally:
            raw.undefine()


def keep(connection: Connection, spec: PoolSpec, *, uuid: str) -> None:
    """Let libvirt keep the definition of a running pool, and start it with the host if wanted."""
    with calling(f"define the pool '{spec.name}'"):
        raw = connection.raw.storagePoolDefineXML(
            render_pool(spec, uuid=uuid), libvirt.VIR_STORAGE_POOL_DEFINE_VALIDATE
        )
        if spec.autostart:
            raw.setAutostart(1)
