"""The facts that an audit judges, all read at once."""

from __future__ import annotations

from dataclasses import dataclass

from lxml import etree

from vmctl.hypervisor.audit_facts import FileMode
from vmctl.hypervisor.network_owners import NetworkOwner
from vmctl.hypervisor.processes import ProcessFacts
from vmctl.render.facts import HostFacts

__all__ = ["Seen"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is known of a machine.

    Attributes:
        root: Its XML, the live one where it runs, with whether its screens have passwords.
        running: Whether it runs.
        argv: QEMU's command line, as libvirt makes it; empty where libvirt doesn't say.
        process: QEMU's process; None where it doesn't run, or runs elsewhere.
        files: The volumes that vmctl's record lists, with who may read them.
        tenant: Whose it is, by vmctl's record; empty for nobody's.
        has_seed: Whether its seed is still there.
        networks: The networks that it is on.
        filters: The packet filters that its NICs refer to, each with those that it is made of.
        facts: What its host can do.
        is_here: Whether its host is this machine, whose kernel can be looked at.
    """

    root: etree._Element
    running: bool
    argv: tuple[str, ...]
    process: ProcessFacts | None
    files: tuple[FileMode, ...]
    tenant: str
    has_seed: bool
    networks: dict[str, NetworkOwner]
    filters: dict[str, frozenset[str]]
    facts: HostFacts
    is_here: bool = True

    def has(self, path: str) -> bool:
        """Return whether the XML has such an element."""
        return self.root.find(path) is not None
