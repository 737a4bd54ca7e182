"""A bootable disk from two folders: GPT, GRUB for BIOS, an ESP for UEFI, root on ext4 at the end.

Nothing is mounted and no loop device is used, so a build that is killed leaves only files.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmctl.imaging.build.tools import GRUB_FOLDER, run

__all__ = ["EXT4_FEATURES", "MIB", "SIGNED_PACKAGES", "Disk", "write_disk"]

SECTOR = 512
MIB = 1024 * 1024

BIOS_GRUB_START = 1 * MIB
ESP_START = 2 * MIB
ROOT_START = ESP_START + 16 * MIB

# Everything that a grub.cfg of ours may say is inside the core image: GRUB loads no module later.
GRUB_MODULES = ("biosdisk", "part_gpt", "ext2", "normal", "configfile", "linux", "echo", "test")

# Shim is signed by Microsoft, and GRUB and the kernels by Debian: they boot with Secure Boot too.
SIGNED_PACKAGES = ("grub-efi-amd64-signed", "shim-signed")
SIGNED_FILES = {
    "usr/lib/shim/shimx64.efi.signed": "EFI/BOOT/BOOTX64.EFI",
    "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": "EFI/BOOT/GRUBX64.EFI",
}
# The signed GRUB looks here first; what follows finds the root partition of the same disk.
SIGNED_CONFIG = Path("EFI/debian/grub.cfg")
SIGNED_CONFIG_TEXT = """\
regexp --set=1:disk '^\\(([^,]+),' "$cmdpath"
set root="$disk,gpt3"
set prefix="($root)/boot/grub"
configfile "$prefix/grub.cfg"
"""


# All of them by name: what a newer mke2fs switches on by itself, an older guest's fsck or GRUB
# would refuse.
EXT4_FEATURES = (
    *("has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "extent", "64bit"),
    *("flex_bg", "sparse_super", "large_file", "huge_file", "dir_nlink", "extra_isize"),
    "metadata_csum",
)


@dataclass(frozen=True)
class Disk:
    """What decides how a disk looks."""

    root: Path
    """The tree that becomes the root file system; it has `boot/grub/grub.cfg`."""
    signed: Path
    """A tree with SIGNED_PACKAGES unpacked."""
    label: str
    """The root file system's label."""
    size: int
    """The disk's size in bytes."""
    ext4_features: Sequence[str] = EXT4_FEATURES
    """The features of the root file system, as in mke2fs's option -O."""


def write_disk(disk: Disk, work: Path, image: Path) -> None:
    """Write `disk` to the qcow2 file `image`.

    Raises:
        ImageError: A tool failed, for example because the tree doesn't fit.
        ResourceError: The file system that `work` lies on is full.
    """
    raw = work / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(disk.size)
    # The last MiB holds the backup partition table.
    root_size = disk.size - ROOT_START - MIB
    _partition(raw, root_size)
    _install_bios_grub(raw, work)
    _make_esp(raw, disk.signed, work / "esp")
    features = ["-O", ",".join(("none", *disk.ext4_features))]
    options = f"offset={ROOT_START},root_owner=0:0"
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", *features, "-L", disk.label, "-m", "1",
         "-d", disk.root, "-E", options, raw, f"{root_size // 1024}k"])  # fmt: skip
    # Not compressed: reading compressed clusters costs more at each boot than their space is worth.
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image])
    raw.unlink()


def _partition(raw: Path, root_size: int) -> None:
    bios_grub = "21686148-6449-6E6F-744E-656564454649"

    def line(start: int, size: int, kind: str, name: str) -> str:
        return f"start={start // SECTOR}, size={size // SECTOR}, type={kind}, name={name}\n"

    table = "label: gpt\nunit: sectors\n"
    table += line(BIOS_GRUB_START, ESP_START - BIOS_GRUB_START, bios_grub, "bios")
    table += line(ESP_START, ROOT_START - ESP_START, "uefi", "esp")
    table += line(ROOT_START, root_size, "linux", "root")
    run(["sfdisk", "--quiet", raw], stdin=table)


def _install_bios_grub(raw: Path, work: Path) -> None:
    """Do what grub-bios-setup does, which insists on a device to work on.

    Three numbers tie the parts together: the boot sector needs the core image's first sector
    (offset 0x5c), the core image's first sector needs the place of the rest (offset 0x1f4), and a
    jump at 0x66 that only floppies need becomes two nops, as for every hard disk.
    Source: GRUB 2.06, include/grub/i386/pc/boot.h and util/setup.c.
    """
    core_file = work / "core.img"
    # Without a disk's name, GRUB completes the prefix with the disk that it was started from.
    run(["grub-mkimage", "-O", "i386-pc", "-p", "(,gpt3)/boot/grub", "-o", core_file,
         *GRUB_MODULES])  # fmt: skip
    core = bytearray(core_file.read_bytes())
    if len(core) > ESP_START - BIOS_GRUB_START:
        raise AssertionError("GRUB's core image outgrew its partition")
    first = BIOS_GRUB_START // SECTOR
    struct.pack_into("<Q", core, 0x1F4, first + 1)
    boot = bytearray((GRUB_FOLDER / "boot.img").read_bytes())
    struct.pack_into("<Q", boot, 0x5C, first)
    boot[0x66:0x68] = b"\x90\x90"
    with raw.open("r+b") as file:
        # What follows is the protective MBR's partition table.
        file.write(boot[:440])
        file.seek(BIOS_GRUB_START)
        file.write(core)
    core_file.unlink()


def _make_esp(raw: Path, signed: Path, tree: Path) -> None:
    (tree / "EFI/BOOT").mkdir(parents=True)
    (tree / SIGNED_CONFIG.parent).mkdir()
    for source, target in SIGNED_FILES.items():
        shutil.copyfile(signed / source, tree / target)
    (tree / SIGNED_CONFIG).write_text(SIGNED_CONFIG_TEXT)
    size = ROOT_START - ESP_START
    offset = str(ESP_START // SECTOR)
    run(["mkfs.vfat", "-F", "16", "-n", "ESP", "--offset", offset, raw, str(size // 1024)])
    run(["mcopy", "-s", "-Q", "-i", f"{raw}@@{ESP_START}", tree / "EFI", "::/"])
