"""A guest that boots in seconds: busybox, sshd, the guest agent and a miniature cloud-init.

It has the kernel and the programs of Debian 12, but no package manager, no systemd and no Python.
`keep.txt` and `modules.txt` say what it takes from Debian, `root/` is what it has of its own, and
`initramfs/` finds the root file system.
"""

import os
from pathlib import Path

from guest_images.micro import kernel
from vmctl.imaging.build.bootstrap import bootstrap
from vmctl.imaging.build.cache import Blueprint
from vmctl.imaging.build.disk import EXT4_FEATURES, MIB, SIGNED_PACKAGES, Disk, write_disk
from vmctl.imaging.build.sources import from_host
from vmctl.imaging.build.tools import run
from vmctl.imaging.build.trees import digest_of, lines_of, overlay, pick
from vmctl.progress import Phase

RECIPE = Path(__file__).parent
SUITE = "bookworm"
# Beside what every build needs, and the Debian package that brings it.
TOOLS = {"depmod": "kmod"}

PACKAGES = (
    "base-files",
    "bash",
    "busybox-static",
    "e2fsprogs",
    "fdisk",
    # The same language as jq and a tenth of its time to start, which under emulation counts.
    "gojq",
    "jq",
    "libpam-modules",
    "login",
    "openssh-server",
    "passwd",
    "qemu-guest-agent",
    "sudo",
    "util-linux",
    *SIGNED_PACKAGES,
    *kernel.PACKAGES,
)

# Folders that exist in the guest, with their modes; the rest comes with the files.
FOLDERS = {
    "boot/grub": 0o755,
    "dev": 0o755,
    "etc/sudoers.d": 0o750,
    "home": 0o755,
    "mnt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr/bin": 0o755,
    "usr/lib/x86_64-linux-gnu": 0o755,
    "usr/lib64": 0o755,
    "usr/sbin": 0o755,
    "var/empty": 0o755,
    "var/lib/cloud": 0o755,
    "var/log": 0o755,
    "var/tmp": 0o1777,
}
MERGED = ("bin", "lib", "lib64", "sbin")
MODES = {"etc/shadow": 0o640, "etc/sudoers": 0o440, "usr/bin/sudo": 0o4755}


def blueprint() -> Blueprint:
    """Return what the image is made from: the files of this folder."""
    return Blueprint(name="micro", content=digest_of([RECIPE]))


def build(work: Path, image: Path, phase: Phase) -> None:
    """Build the image with `work` as scratch space."""
    debian, root = work / "debian", work / "root"
    phase.update("unpacking Debian packages")
    bootstrap(debian, SUITE, variant="extract", packages=PACKAGES, sources=from_host(SUITE))
    phase.update("composing the root file system")
    _make_root(debian, root)
    phase.update("building kernel modules")
    kernel.install_kernel(debian, root)
    phase.update("writing the disk")
    # Each would load further modules at boot, or slow the writing down.
    features = [name for name in EXT4_FEATURES if name not in {"metadata_csum", "64bit"}]
    disk = Disk(
        root=root, signed=debian, label="micro-root", size=512 * MIB, ext4_features=features
    )
    write_disk(disk, work, image)


def _make_root(debian: Path, root: Path) -> None:
    for name, mode in FOLDERS.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    for name in MERGED:
        (root / name).symlink_to(f"usr/{name}")
    kept = lines_of(RECIPE / "keep.txt")
    pick([*kept, *_libraries(debian, kept)], debian, root)
    for applet in run([root / "bin/busybox", "--list-full"]).split():
        # The real program wins where there is one, wherever it is.
        if not any(os.path.lexists(root / folder / Path(applet).name) for folder in MERGED):
            (root / applet).symlink_to("/bin/busybox")
    overlay(RECIPE / "root", root)
    for name, mode in MODES.items():
        (root / name).chmod(mode)


def _libraries(debian: Path, kept: list[str]) -> list[str]:
    """The shared libraries that the kept programs need, asked of Debian's own dynamic linker."""
    loader = "/lib64/ld-linux-x86-64.so.2"
    found = {loader}
    for name in kept:
        path = debian / name.lstrip("/")
        for program in [path] if path.is_file() else path.rglob("*.so"):
            if not _is_dynamic(program):
                continue
            inside = f"/{program.relative_to(debian)}"
            for line in run(["chroot", debian, loader, "--list", inside]).splitlines():
                # "libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f...)"
                library = line.partition("=>")[2].partition("(")[0].strip()
                if library:
                    found.add(library)
    return sorted(_followed(debian, found))


def _is_dynamic(path: Path) -> bool:
    """Whether a file is an ELF program that names a dynamic linker or is a shared library."""
    content = path.read_bytes()
    return content.startswith(b"\x7fELF") and (
        ".so" in path.name or b"/lib64/ld-linux" in content[:4096]
    )


def _followed(debian: Path, names: set[str]) -> set[str]:
    """`names`, and what those of them that are symbolic links point to."""
    found = set(names)
    for name in names:
        path = debian / name.lstrip("/")
        if path.is_symlink():
            link = path.readlink()
            found.add(str(link if link.is_absolute() else Path(name).parent / link))
    return found
