"""What the volumes of a snapshot are called: by the machine's UUID, for its name can change."""

from __future__ import annotations

from vmctl.hypervisor.domains import Domain

__all__ = ["memory_name", "variables_name"]


def memory_name(domain: Domain, snapshot: str) -> str:
    """Return the name of the volume with a snapshot's memory; a renamed machine keeps it."""
    return f"{domain.uuid}.{snapshot}.memory"


def variables_name(domain: Domain, snapshot: str) -> str:
    """Return the name of the volume with UEFI's variables as a snapshot has them."""
    return f"{domain.uuid}.{snapshot}.nvram"
