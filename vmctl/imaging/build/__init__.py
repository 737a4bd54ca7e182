"""Bootable images from distribution packages, for sites that can't pull any.

    recipes()                      what can be built
    build("debian-12")             the image's path, in the cache of built images

The machine that builds needs root, some tools, and a mirror of the distribution that it can reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmctl.errors import NotFoundError
from vmctl.imaging.build import debian
from vmctl.imaging.build.cache import default_cache, get_or_build, image_path
from vmctl.imaging.build.options import DEFAULT_SIZE, Options, check_architecture
from vmctl.imaging.build.releases import RELEASES, Release
from vmctl.imaging.build.tools import check_host
from vmctl.progress import Phase

__all__ = ["Recipe", "build", "built_path", "default_cache", "recipes"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An image that can be built.

    Attributes:
        name: What `build` takes, for example ``debian-12``.
        description: What the image is, in one line.
    """

    name: str
    description: str


def recipes() -> list[Recipe]:
    """Return what can be built."""
    return [
        Recipe(name=release.name, description=release.description) for release in RELEASES.values()
    ]


def build(
    name: str,
    *,
    cache: Path | None = None,
    phase: Phase | None = None,
    packages: Sequence[str] = (),
    offline: Sequence[str] = (),
    mirror: str | Sequence[str] = (),
    size: int | None = None,
    arch: str | None = None,
    rebuild: bool = False,
) -> Path:
    """Build an image, or find it in the cache where it was built before.

    Of several builds of one image at once, one builds it and the others wait. A build that fails
    or is interrupted leaves nothing; what one that was killed leaves, the next removes.

    Args:
        name: One of `recipes`.
        cache: The folder of built images; ``VMCTL_IMAGE_CACHE`` or the user's cache by default.
        phase: Told what is being done.
        packages: Debian packages to install beside the recipe's own.
        offline: Debian packages to put into the image, uninstalled, as a source that a guest
            without a network can install from; the guest then has no other source but `mirror`.
        mirror: URLs of Debian mirrors, or lines as in sources.list(5); by default those from which
            this machine gets its own packages, or Debian's own server where it is no Debian. Of a
            URL the release is taken, or its security updates where the URL ends in ``-security``.
        size: The disk's size in bytes; 3 GiB by default.
        arch: The architecture; it can only be this machine's, and only x86_64.
        rebuild: Build it anew, with the packages of today, even if it is in the cache.

    Returns:
        The path of a qcow2 file, which nothing else will change.

    Raises:
        NotFoundError: There is no such recipe.
        UsageError: An option makes no sense.
        UnsupportedError: This machine lacks a tool, or has another architecture.
        PermissionDeniedError: This process is not root's, or can't write to the cache.
        ImageError: Building failed, for example because the mirror lacks a package.
        ResourceError: There is no space left.
    """
    release = _release(name)
    options = _options(packages, offline, mirror, size)
    check_architecture(arch)
    blueprint = debian.blueprint(release, options)
    image = image_path(blueprint, cache)
    if image.exists() and not rebuild:
        return image
    check_host()
    phase = phase or Phase(name, "build", None)
    told = phase
    return get_or_build(
        blueprint,
        lambda work, made: debian.build(release, options, work, made, told),
        cache=cache,
        phase=phase,
        rebuild=rebuild,
    )


def built_path(
    name: str,
    *,
    cache: Path | None = None,
    packages: Sequence[str] = (),
    offline: Sequence[str] = (),
    mirror: str | Sequence[str] = (),
    size: int | None = None,
) -> Path:
    """Return the path that `build` returns for the same arguments, whether it exists or not.

    Raises:
        NotFoundError: There is no such recipe.
        UsageError: An option makes no sense.
    """
    options = _options(packages, offline, mirror, size)
    return image_path(debian.blueprint(_release(name), options), cache)


def _release(name: str) -> Release:
    release = RELEASES.get(name)
    if release is None:
        raise NotFoundError(
            f"there is no recipe for an image '{name}'",
            hint=f"these can be built: {', '.join(RELEASES)}",
        )
    return release


def _options(
    packages: Sequence[str], offline: Sequence[str], mirror: str | Sequence[str], size: int | None
) -> Options:
    return Options(
        packages=tuple(packages),
        offline=tuple(offline),
        mirror=(mirror,) if isinstance(mirror, str) else tuple(mirror),
        size=DEFAULT_SIZE if size is None else size,
    )
