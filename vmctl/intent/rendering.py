"""A spec's XML for comparing it with another: the places of its parts are stand-ins in both."""

from __future__ import annotations

from vmctl.intent.matching import targets_of
from vmctl.render.domain import Placement, render_domain, with_macs
from vmctl.render.facts import HostFacts
from vmctl.render.templates import Templates
from vmctl.spec import VMSpec
from vmctl.spec.drives import DriveKind

__all__ = ["rendered"]


def rendered(
    spec: VMSpec,
    *,
    facts: HostFacts,
    uuid: str,
    templates: Templates | None,
    log: str | None = "/log",
) -> str:
    """Return the domain's XML.

    Args:
        spec: The spec, resolved.
        facts: What the host can do.
        uuid: The machine's UUID.
        templates: Where it is rendered from.
        log: Where the console log is, as far as that matters.

    Raises:
        UnsupportedError: The host can't do what the spec asks for.
    """
    named = with_macs(spec, uuid)
    placement = Placement(
        uuid=uuid,
        disks=tuple(
            None if disk.network is not None else f"/{target}"
            for disk, target in zip(named.disks, targets_of(named, DriveKind.DISK), strict=True)
        ),
        disk_formats=tuple(str(disk.format or "qcow2") for disk in named.disks),
        cdroms=tuple(None for _ in named.cdroms),
        floppies=tuple(None for _ in named.floppies),
        has_seed=named.cloud_init is not None,
        console_log=log,
        kernel=None if named.boot.kernel is None else "/kernel",
        initrd=None if named.boot.initrd is None else "/initrd",
    )
    return render_domain(named, facts, placement, templates=templates)
