"""The kernel, its modules and the initramfs.

Debian's cloud kernel starts in less than half the generic one's time (its image is compressed with
LZ4, and its drivers are few), but lacks AHCI and the network cards of old. `Kbuild` adds those.
"""

import re
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from guest_images.micro.cpio import write_initramfs
from vmctl.errors import ImageError
from vmctl.imaging.build.tools import run
from vmctl.imaging.build.trees import lines_of, overlay, pick

RECIPE = Path(__file__).parent

PACKAGES = (
    *("linux-headers-cloud-amd64", "linux-image-cloud-amd64", "linux-source-6.1"),
    *("coreutils", "dash", "gcc-12", "grep", "make", "mawk", "sed"),
)

# Modules without which there is no root file system to load the others from.
BOOT_MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_scsi", "nvme", "sd_mod", "sr_mod"),
    *("ata_piix", "ata_generic", "ahci", "sym53c8xx", "vmw_pvscsi"),
    *("crc32c_generic", "ext4"),
)


def install_kernel(debian: Path, root: Path) -> None:
    """Put kernel, modules and initramfs into `root`, from the packages unpacked in `debian`."""
    modules = next((debian / "lib/modules").iterdir())
    kernel = modules.name
    _build_extra_modules(debian)
    run(["depmod", "-b", debian, kernel])
    _install_modules(debian, root, kernel, lines_of(RECIPE / "modules.txt"))
    (root / "boot/vmlinuz").write_bytes((debian / f"boot/vmlinuz-{kernel}").read_bytes())

    tree = root.with_name("initramfs")
    for name in ("bin", "dev", "proc", "sys", "root"):
        (tree / name).mkdir(parents=True)
    pick(["/bin/busybox"], debian, tree)
    for applet in run([tree / "bin/busybox", "--list"]).split():
        if applet != "busybox":
            (tree / "bin" / applet).symlink_to("busybox")
    overlay(RECIPE / "initramfs", tree)
    shutil.copy2(root / "usr/lib/micro/load-drivers", tree / "bin")
    _install_modules(debian, tree, kernel, BOOT_MODULES)
    write_initramfs(tree, root / "boot/initrd.img")


def _write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write a regular file of the archive; nothing else of what a member says is followed."""
    content = archive.extractfile(member)
    if content is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.read())


def _build_extra_modules(debian: Path) -> None:
    """Compile what `Kbuild` lists, with the compiler in the tree `debian`, and install it there."""
    kbuild = (RECIPE / "Kbuild").read_text()
    folders = tuple(f"{Path(name)}/" for name in _folders(kbuild))
    source = debian / "build"
    with tarfile.open(debian / "usr/src/linux-source-6.1.tar.xz", "r|xz") as archive:
        for member in archive:
            # "linux-source-6.1/drivers/ata/ahci.c"
            member.name = member.name.partition("/")[2]
            if member.isreg() and member.name.startswith(folders):
                _write_member(archive, member, source / member.name)
    (source / "Kbuild").write_text(kbuild)
    # Where packages are configured, the "alternatives" system makes this link.
    (debian / "usr/bin/awk").symlink_to("mawk")
    headers = next((debian / "usr/src").glob("linux-headers-*-cloud-amd64"))
    make = ["make", "-C", f"/usr/src/{headers.name}", "M=/build", "-j2", "modules"]
    run(["chroot", debian, *make])
    run(["chroot", debian, *make[:-1], "INSTALL_MOD_STRIP=1", "DEPMOD=true", "modules_install"])


def _folders(kbuild: str) -> set[str]:
    """The folders that the targets in a Kbuild file lie in."""
    targets = re.findall(r"\S+/\S*\.o|\S+/(?=\s)", kbuild)
    return {target.rpartition("/")[0] for target in targets}


def _install_modules(debian: Path, target: Path, kernel: str, names: Sequence[str]) -> None:
    """Copy modules and what they need from `debian` into `target`."""
    folder = f"lib/modules/{kernel}"
    files: dict[str, list[str]] = {}
    for line in (debian / folder / "modules.builtin").read_text().splitlines():
        files[_module_name(line)] = []
    # "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko"
    for line in (debian / folder / "modules.dep").read_text().splitlines():
        file, _, needed = line.partition(":")
        files[_module_name(file)] = [file, *needed.split()]
    if unknown := [name for name in names if _module_name(name) not in files]:
        raise ImageError(
            f"this kernel has no module {', '.join(unknown)}",
            hint=f"correct {RECIPE / 'modules.txt'} or {RECIPE / 'Kbuild'}",
        )
    wanted = {file for name in names for file in files[_module_name(name)]}
    lists = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
    pick([f"/{folder}/{file}" for file in (*sorted(wanted), *lists)], debian, target)
    run(["depmod", "-b", target, kernel])
    for unread in (target / folder).glob("modules.*.bin"):
        # busybox reads the text files.
        unread.unlink()


def _module_name(file: str) -> str:
    """How the kernel calls the module in a file."""
    return Path(file).stem.replace("-", "_")
