"""What it means when a host can't limit what NICs carry."""

from __future__ import annotations

import libvirt

from vmctl.errors import UnsupportedError, VmctlError
from vmctl.hypervisor.errors import is_code

__all__ = ["no_bandwidth"]


def no_bandwidth(name: str, error: libvirt.libvirtError) -> VmctlError | None:
    """Return the error for a host that can't limit a NIC; libvirt only says that ``tc`` failed.

    Args:
        name: The machine's name.
        error: What libvirt said when it set up a NIC that is limited.
    """
    if not is_code(error, libvirt.VIR_ERR_INTERNAL_ERROR):
        return None
    return UnsupportedError(
        f"the host could not set the bandwidth of a NIC of '{name}': its kernel seems to lack "
        "what shapes traffic",
        details=error.get_error_message() or "",
        hint="load the kernel modules sch_htb, sch_sfq, sch_ingress and act_police on the host, "
        "or leave bandwidth out",
    )
