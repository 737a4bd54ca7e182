"""A machine's memory in a file of the host's: looked into, and gone on from.

https://libvirt.org/html/libvirt-libvirt-domain.html#virDomainRestoreFlags
"""

from __future__ import annotations

import libvirt

from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.errors import calling

__all__ = ["restore", "saved_xml"]


def saved_xml(domain: Domain, path: str) -> str:
    """Return the XML, secrets included, of the machine whose memory is in a file.

    Args:
        domain: The machine.
        path: The file, on the host.
    """
    with calling(f"look into the memory of '{domain.name}' at {path!r}"):
        return str(
            domain.connection.raw.saveImageGetXMLDesc(
                path, libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE
            )
        )


def restore(domain: Domain, path: str, xml: str, *, running: bool) -> None:
    """Let a machine that is off go on from its memory in a file, which stays.

    Args:
        domain: The machine.
        path: The file, on the host.
        xml: The machine as it goes on; its devices are those in the file, its files may be others.
        running: Whether it runs then, or is paused.
    """
    flag = libvirt.VIR_DOMAIN_SAVE_RUNNING if running else libvirt.VIR_DOMAIN_SAVE_PAUSED
    with calling(f"restore the memory of '{domain.name}' from {path!r}"):
        domain.connection.raw.restoreFlags(path, xml, flag)
