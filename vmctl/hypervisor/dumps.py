"""A guest's memory written to a file of the host's, by libvirt."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import libvirt

from vmctl.errors import ResourceError, UnsupportedError, VmctlError
from vmctl.hypervisor import pools
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling, is_code
from vmctl.hypervisor.jobs import run_job
from vmctl.hypervisor.volumes import StoredVolume

__all__ = ["FORMATS", "dump_memory", "memory_of"]

FORMATS = {
    "elf": libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW,
    "kdump-zlib": libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_ZLIB,
    "kdump-lzo": libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_LZO,
    "kdump-snappy": libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_SNAPPY,
    "win-dmp": libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_WIN_DMP,
}
"""What the file can be (``virDomainCoreDumpFormat``); ``elf`` is an ELF core of x86 or ARM."""

# Less than that is no room at all.
_NO_ROOM = 1 << 20


def memory_of(domain: Domain) -> int:
    """Return the bytes of memory that a guest can have, balloon or not."""
    raw = domain.raw()
    with calling(f"ask for the memory of '{domain.name}'"):
        kibibytes: int = raw.info()[1]
        return kibibytes << 10


def dump_memory(
    domain: Domain, volume: StoredVolume, form: str, *, tell: Callable[[float], None]
) -> None:
    """Write a guest's memory over a volume; the guest stands still meanwhile, and goes on then.

    Args:
        domain: The machine.
        volume: A file in a pool; it grows as is needed.
        form: A key of `FORMATS`.
        tell: Told how much is done, from 0 to 1.

    Raises:
        ResourceError: The pool filled up.
        UnsupportedError: This QEMU, or this guest, has no dump of that format.
    """
    path = volume.facts().path
    raw = domain.raw()

    def why_not(error: libvirt.libvirtError) -> VmctlError | None:
        return _why_not(error, domain, volume, form)

    with calling(f"dump the memory of '{domain.name}'", on=why_not):
        run_job(
            raw,
            lambda: raw.coreDumpWithFormat(path, FORMATS[form], libvirt.VIR_DUMP_MEMORY_ONLY),
            tell=tell,
        )


def _why_not(
    error: libvirt.libvirtError, domain: Domain, volume: StoredVolume, form: str
) -> VmctlError | None:
    if is_code(error, libvirt.VIR_ERR_OPERATION_UNSUPPORTED):
        return UnsupportedError(
            f"there is no dump of '{domain.name}' as {form}",
            details=error.get_error_message() or "",
            hint="elf is there always; win-dmp needs a Windows guest with QEMU's vmcoreinfo device",
        )
    # QEMU fails with its own words when the disk is full; the facts say it as well.
    with suppress(libvirt.libvirtError, VmctlError):
        pool = pools.find(volume.connection, volume.pool)
        pool.refresh(0)
        available = pool.info()[3]
        if available < _NO_ROOM:
            return ResourceError(
                f"the pool '{volume.pool}' has no room for the memory of '{domain.name}'",
                details=f"{available} bytes are free; {error.get_error_message()}",
                hint="remove what is not needed, or use another pool",
            )
    return None
