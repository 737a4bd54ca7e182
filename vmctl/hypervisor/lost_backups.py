"""Backups that a libvirtd has lost track of which was killed while it began or ended them.

libvirt 9.0 keeps the job in what it remembers of a running machine, and nothing ends it any more.
Where it remembers the backup too, the job can be aborted. Where it does not, it begins nothing else
with that machine, not even its next start, until it forgets: when it is restarted while QEMU is
not there.
"""

from __future__ import annotations

import libvirt

from vmctl.errors import WrongStateError
from vmctl.hypervisor.backups import is_under_way
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling, is_code

__all__ = ["has_lost", "refuse_lost"]


def has_lost(domain: Domain) -> bool:
    """Return whether libvirt is at a backup of the machine that it knows nothing more of."""
    # It is looked for once more: between two looks, one may have ended.
    return _can_not_tell(domain) and not is_under_way(domain) and _can_not_tell(domain)


def _can_not_tell(domain: Domain) -> bool:
    """Return whether libvirt is at something with a machine, and can't tell how far it is."""
    raw = domain.raw()
    with calling(f"look for jobs of '{domain.name}'"):
        try:
            if raw.isActive():
                raw.jobStats(0)
        except libvirt.libvirtError as error:
            if is_code(error, libvirt.VIR_ERR_INTERNAL_ERROR):
                return True
            # It has gone off meanwhile; or this driver has no jobs.
            if not is_code(error, libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_SUPPORT):
                raise
    return False


def refuse_lost(domain: Domain) -> None:
    """Refuse at once what libvirt would refuse after half a minute, in words that say nothing.

    Raises:
        WrongStateError: libvirt has lost a backup of the machine.
    """
    if has_lost(domain):
        state = domain.state()
        raise WrongStateError(
            f"libvirtd was restarted while a backup of '{domain.name}' began, and waits for ever "
            "for its end",
            state=state.value,
            details="the guest runs on, and its disks are not touched",
            hint="when that suits you, stop it, restart libvirtd on its host, where other guests "
            "run on, and start it again",
        )
