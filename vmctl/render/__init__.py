"""From a spec to documents: a domain's XML, and a cloud-init seed.

`render_domain` and `render_seed` are pure: the same input gives the same bytes. What the
host is asked for comes in as `HostFacts`, what launching decides as `Placement`, `SeedIdentity`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmctl._lazy import loaded_when_used

if TYPE_CHECKING:
    from vmctl.render.domain import disk_targets, render_domain
    from vmctl.render.facts import FirmwareImage, HostFacts
    from vmctl.render.identity import mac_address, with_macs
    from vmctl.render.placement import Placement
    from vmctl.render.seed import SeedIdentity, render_seed, ssh_user
    from vmctl.render.templates import Templates
else:
    # Facts and MAC addresses are wanted by who renders nothing.
    __getattr__ = loaded_when_used(
        __name__,
        {
            "FirmwareImage": "vmctl.render.facts",
            "HostFacts": "vmctl.render.facts",
            "Placement": "vmctl.render.placement",
            "SeedIdentity": "vmctl.render.seed",
            "Templates": "vmctl.render.templates",
            "disk_targets": "vmctl.render.domain",
            "mac_address": "vmctl.render.identity",
            "render_domain": "vmctl.render.domain",
            "render_seed": "vmctl.render.seed",
            "ssh_user": "vmctl.render.seed",
            "with_macs": "vmctl.render.identity",
        },
    )

__all__ = [
    "FirmwareImage",
    "HostFacts",
    "Placement",
    "SeedIdentity",
    "Templates",
    "disk_targets",
    "mac_address",
    "render_domain",
    "render_seed",
    "ssh_user",
    "with_macs",
]
