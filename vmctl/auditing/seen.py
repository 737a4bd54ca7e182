"""The facts that an audit judges, all read at once."""

from __future__ import annotations

from dataclasses import dataclass

from lxml import etree

from vmctl.hypervisor.audit_facts import FileMode, NetworkKind
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
        has_seed: Whether its seed is still there.
        networks: The networks that it is on.
        facts: What its host can do.
    """

    root: etree._Element
    running: bool
    argv: tuple[str, ...]
    process: ProcessFacts | None
    files: tuple[FileMode, ...]
    has_seed: bool
    networks: dict[str, NetworkKind]
    facts: HostFacts

    def has(self, path: str) -> bool:
        """Return whether the XML has such an element."""
        return self.root.find(path) is not None
