"""Debian 12 with systemd and the real cloud-init, as a cloud provider would offer it.

`packages.txt` says what is installed, `root/` is laid over it, and `units-*.txt` switch units on
and off. `packages:` in a seed can be tried without a network: a small repository in the image, with
what `offline.txt` lists, is apt's only source.
"""

import hashlib
import os
from pathlib import Path

from guest_images.commands import progress, run
from guest_images.debian import bootstrap
from guest_images.disk import MIB, SIGNED_PACKAGES, Disk, write_disk
from guest_images.trees import lines_of, overlay

RECIPE = Path(__file__).parent

ETC = RECIPE / "root/etc"
REPOSITORY = Path("opt/packages")

# Nobody reads them in a test, and each file costs time to unpack and room.
EXCLUDED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")

# What a machine must not share with its siblings.
IDENTITY = ("etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed")
LEFTOVERS = ("var/log/*.log", "var/log/apt/*", "var/cache/apt/*.bin")


def build(work: Path, image: Path) -> None:
    """Build the image with `work` as scratch space."""
    root, signed = work / "root", work / "signed"
    progress("debian-12: unpacking boot loaders")
    bootstrap(signed, "extract", SIGNED_PACKAGES)
    progress("debian-12: installing Debian packages")
    bootstrap(root, "minbase", lines_of(RECIPE / "packages.txt"), _options())
    progress("debian-12: configuring")
    overlay(RECIPE / "root", root)
    _index(root)
    _configure(root)
    progress("debian-12: writing the disk")
    disk = Disk(root=root, signed=signed, label="debian-root", size=3072 * MIB)
    write_disk(disk, work, image)


def _options() -> list[str]:
    offline = " ".join(lines_of(RECIPE / "offline.txt"))
    return [
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED),
        # There before the kernel is configured, so that the initramfs is made by them.
        f"--essential-hook=copy-in {ETC / 'initramfs-tools'} {ETC / 'fstab'} /etc",
        f'--customize-hook=mkdir -p "$1/{REPOSITORY}" && cd "$1/{REPOSITORY}"'
        f' && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download {offline}',
    ]


def _index(root: Path) -> None:
    """Write the `Packages` index that makes a folder of packages an apt repository.

    Source: https://wiki.debian.org/DebianRepository/Format.
    """
    repository = root / REPOSITORY
    stanzas = []
    for file in sorted(repository.glob("*.deb")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        place = f"Filename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {digest}\n"
        control = run(["chroot", root, "dpkg-deb", "--field", f"/{REPOSITORY}/{file.name}"])
        stanzas.append(control + place)
    (repository / "Packages").write_text("\n".join(stanzas))


def _configure(root: Path) -> None:
    """Finish what packages and plain files can't."""
    run(["chroot", root, "systemctl", "mask", *lines_of(RECIPE / "units-off.txt")])
    run(["chroot", root, "systemctl", "enable", *lines_of(RECIPE / "units-on.txt")])
    run(["chroot", root, "apt-get", "update"])
    for pattern in (*IDENTITY, *LEFTOVERS):
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
