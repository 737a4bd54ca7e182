"""Making what the next start takes: one new definition, and the record of it right after."""

from __future__ import annotations

from dataclasses import replace

from lxml import etree

from vmctl.devices.machine import recorded
from vmctl.hypervisor import hotplug
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Record, Role
from vmctl.hypervisor.pools import open_pool
from vmctl.intent.planning import Machine, recorded_spec
from vmctl.intent.rendering import rendered
from vmctl.render.patching import patch
from vmctl.spec import VMSpec

__all__ = ["redefine"]


def redefine(domain: Domain, machine: Machine, record: Record, wanted: VMSpec) -> None:
    """Give a machine the definition for another spec; what vmctl does not manage stays as it is.

    Args:
        domain: The machine.
        machine: What is known of it, as it is now.
        record: vmctl's record of it, as it is now.
        wanted: Its new spec, resolved, without secrets.

    Raises:
        HypervisorError: libvirt refuses the definition; the old one stays.
    """
    log = record.volume(Role.CONSOLE_LOG)
    path = "" if log is None else open_pool(domain.connection, log.pool).path_of(log.name)
    old, new = (
        rendered(
            spec,
            facts=machine.facts,
            uuid=machine.uuid,
            templates=machine.templates,
            log=path or None,
        )
        for spec in (recorded_spec(machine), wanted)
    )

    def change(root: etree._Element) -> etree._Element:
        return etree.fromstring(patch(etree.tostring(root, encoding="unicode"), old, new))

    hotplug.redefine(domain, change)
    domain.write_record(replace(record, spec=recorded(wanted, record)))
