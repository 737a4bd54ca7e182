"""A Debian release with systemd and the real cloud-init, as a cloud provider would offer it.

`recipes/debian/packages.txt` says what is installed, `root/` beside it is laid over that, and
`units-*.txt` switch units on and off. A folder of a release's own name in `recipes/` is laid over
it last. With offline packages, a small repository in the image is an apt source of the guest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from vmctl.imaging.build import sources
from vmctl.imaging.build.bootstrap import bootstrap
from vmctl.imaging.build.cache import Blueprint
from vmctl.imaging.build.disk import SIGNED_PACKAGES, Disk, write_disk
from vmctl.imaging.build.options import Options
from vmctl.imaging.build.releases import Release
from vmctl.imaging.build.tools import run
from vmctl.imaging.build.trees import digest_of, lines_of, overlay
from vmctl.progress import Phase

__all__ = ["blueprint", "build"]

_RECIPES = Path(__file__).parent / "recipes"
_COMMON = _RECIPES / "debian"
_LISTS = ("packages.txt", "units-off.txt", "units-on.txt")
_REPOSITORY = Path("opt/packages")

# Nobody reads them in a cloud image, and each file costs time to unpack and room.
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")

# What a machine must not share with its siblings.
_IDENTITY = ("etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed")
_LEFTOVERS = ("var/log/*.log", "var/log/apt/*", "var/cache/apt/*.bin")
# Where the guest has other sources, it gets their lists itself.
_LISTS_OF_APT = "var/lib/apt/lists/*_*"


def blueprint(release: Release, options: Options) -> Blueprint:
    """Return what the image of a release, with these options, is made from."""
    lists = {name: lines_of(_COMMON / name) for name in _LISTS}
    content = {
        "suite": release.suite,
        "packages": release.packages,
        "lists": lists,
        "excluded": _EXCLUDED,
        "files": digest_of(_roots(release)),
    }
    return Blueprint(
        name=release.name,
        content=json.dumps(content, sort_keys=True),
        variant=options.variant(),
    )


def build(release: Release, options: Options, work: Path, image: Path, phase: Phase) -> None:
    """Build the image with `work` as scratch space."""
    root, signed = work / "root", work / "signed"
    suite = release.suite
    wanted = sources.from_mirrors(options.mirror, suite) or sources.from_host(suite)
    phase.update(f"unpacking boot loaders of {suite}", 0.0)
    bootstrap(signed, suite, variant="extract", packages=SIGNED_PACKAGES, sources=wanted)
    phase.update(f"installing packages of {suite}", 0.1)
    packages = [*lines_of(_COMMON / "packages.txt"), *release.packages, *options.packages]
    used = bootstrap(
        root,
        suite,
        variant="minbase",
        packages=list(dict.fromkeys(packages)),
        sources=wanted,
        options=_bootstrap_options(options),
    )
    phase.update("configuring the system", 0.75)
    for folder in _roots(release):
        overlay(folder, root)
    _write_sources(root, options, used)
    _configure(root)
    phase.update("writing the disk", 0.8)
    write_disk(Disk(root=root, signed=signed, label="debian-root", size=options.size), work, image)


def _roots(release: Release) -> list[Path]:
    return [root for root in (_COMMON / "root", _RECIPES / release.name / "root") if root.is_dir()]


def _bootstrap_options(options: Options) -> list[str]:
    etc = _COMMON / "root/etc"
    chosen = [
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED),
        # There before the kernel is configured, so that the initramfs is made by them.
        f"--essential-hook=copy-in {etc / 'initramfs-tools'} {etc / 'fstab'} /etc",
    ]
    if options.offline:
        chosen.append(
            f'--customize-hook=mkdir -p "$1/{_REPOSITORY}" && cd "$1/{_REPOSITORY}"'
            f' && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download {" ".join(options.offline)}'
        )
    return chosen


def _write_sources(root: Path, options: Options, used: Sequence[str]) -> None:
    """Give the guest its apt sources, with lists where it could not get them."""
    # A guest for offline use has the mirror only that somebody named for it.
    mirrors = used if options.mirror or not options.offline else ()
    lines = sources.for_guest(mirrors)
    for path in root.glob(_LISTS_OF_APT):
        path.unlink()
    target = root / "etc/apt/sources.list"
    if options.offline:
        _index(root)
        local = f"deb [trusted=yes] file:/{_REPOSITORY} ./"
        target.write_text(f"{local}\n")
        run(["chroot", root, "apt-get", "update"])
        lines.insert(0, local)
    target.write_text("".join(f"{line}\n" for line in lines))


def _index(root: Path) -> None:
    """Write the `Packages` index that makes a folder of packages an apt repository.

    Source: https://wiki.debian.org/DebianRepository/Format.
    """
    repository = root / _REPOSITORY
    stanzas = []
    for file in sorted(repository.glob("*.deb")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        place = f"Filename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {digest}\n"
        control = run(["chroot", root, "dpkg-deb", "--field", f"/{_REPOSITORY}/{file.name}"])
        stanzas.append(control + place)
    (repository / "Packages").write_text("\n".join(stanzas))


def _configure(root: Path) -> None:
    """Finish what packages and plain files can't."""
    run(["chroot", root, "systemctl", "mask", *lines_of(_COMMON / "units-off.txt")])
    run(["chroot", root, "systemctl", "enable", *lines_of(_COMMON / "units-on.txt")])
    for pattern in (*_IDENTITY, *_LEFTOVERS):
        for path in root.glob(pattern):
            path.unlink()
    # systemd makes a new identity when the file is there but empty.
    (root / "etc/machine-id").write_text("")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    # Newer than /usr: there is nothing to bring up to date at the first boot.
    newer = (root / "usr").stat().st_mtime + 1
    for name in ("etc/.updated", "var/.updated"):
        (root / name).touch()
        os.utime(root / name, (newer, newer))
