"""What would make a launch fail: looked at beforehand, each with how to mend it.

Nothing is changed, started or made, and nothing is raised for a host that isn't there.
"""

from __future__ import annotations

import os

from vmctl.doctor.check import Check
from vmctl.doctor.client import client_key, local_tools, python_binding
from vmctl.doctor.host import examine_host, is_qemu, is_session
from vmctl.errors import NotFoundError, UsageError, VmctlError

__all__ = ["Check", "examine"]


def examine(uri: str | None = None, *, pool: str | None = None) -> list[Check]:
    """Look at everything that a launch needs.

    Args:
        uri: The host, as for `vmctl.connect`.
        pool: The storage pool, as for `vmctl.connect`.

    Returns:
        The checks, in the order in which they build on each other. What can't be looked at because
        something before it failed is left out.
    """
    checks = [python_binding()]
    if checks[0].status == "fail":
        return [*checks, client_key()]
    from vmctl.hypervisor.uri import resolve  # noqa: PLC0415 - it needs libvirt

    try:
        address = resolve(uri)
    except VmctlError as error:
        named = "private host" if isinstance(error, NotFoundError) else "host"
        where = uri or os.environ.get("VMCTL_URI") or "the default URI"
        hint = error.hint
        if isinstance(error, UsageError) and not hint:
            hint = "write for example qemu:///system, or private:NAME"
        detail = f"{error.brief} ({named} {where})" if where not in error.brief else error.brief
        return [
            *checks,
            Check(name="daemon", status="fail", detail=detail, hint=hint),
            client_key(),
        ]
    checks += examine_host(address, pool or os.environ.get("VMCTL_POOL") or "default")
    if address.is_local and is_qemu(address):
        checks += local_tools(session=is_session(address.uri))
    return [*checks, client_key()]
