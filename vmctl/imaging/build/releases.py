"""The Debian releases that an image can be built of, and what differs between them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RELEASES", "Release"]


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release.

    Attributes:
        name: What people call it, and the image: ``debian-12``.
        suite: What the archive calls it.
        packages: What is installed beside that which all releases have.
    """

    name: str
    suite: str
    packages: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """The image in one line."""
        number = self.name.removeprefix("debian-")
        return f"Debian {number} ({self.suite}) with systemd and cloud-init"


RELEASES = {
    release.name: release
    for release in (
        # Its systemd has systemd-resolved in it, and its cloud-init can't write files for networkd.
        Release(name="debian-11", suite="bullseye", packages=("netplan.io",)),
        Release(name="debian-12", suite="bookworm", packages=("systemd-resolved",)),
        Release(name="debian-13", suite="trixie", packages=("systemd-resolved",)),
    )
}
