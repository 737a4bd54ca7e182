"""From a spec to documents: a domain's XML, and a cloud-init seed.

`render_domain` and `render_seed` are pure: the same input gives the same bytes. What the
host is asked for comes in as `HostFacts`, what launching decides as `Placement`, `SeedIdentity`.
"""

from vmctl.render.domain import disk_targets, render_domain
from vmctl.render.facts import FirmwareImage, HostFacts
from vmctl.render.identity import mac_address, with_macs
from vmctl.render.placement import Placement
from vmctl.render.seed import SeedIdentity, render_seed, ssh_user
from vmctl.render.templates import Templates

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
