"""OVAs made by hand, of whatever members: good ones, and ones that are to be refused."""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from pathlib import Path

SAMPLES = Path(__file__).parent / "unit" / "imaging" / "samples"
# A small one with one disk: VMware's, without the sizes that it states.
DESCRIPTOR = re.sub(
    r' ovf:size="\d+"', "", (SAMPLES / "vmware.ovf").read_text().replace("db01-1", "disk")
)
CONTENT = os.urandom(3000)
Entry = tuple[tarfile.TarInfo, bytes]


def regular(name: str, content: bytes) -> Entry:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    return entry, content


def special(name: str, kind: bytes, target: str = "") -> Entry:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry, b""


def manifest(files: dict[str, bytes], kind: str = "SHA256") -> Entry:
    lines = [
        f"{kind}({name})= {hashlib.new(kind.lower(), content).hexdigest()}\n"
        for name, content in files.items()
    ]
    return regular("vm.mf", "".join(lines).encode())


OVF = regular("vm.ovf", DESCRIPTOR.encode())
DISK = regular("disk.vmdk", CONTENT)
GOOD = {"vm.ovf": DESCRIPTOR.encode(), "disk.vmdk": CONTENT}


def pack(path: Path, *entries: Entry, style: int = tarfile.USTAR_FORMAT) -> Path:
    """Write a tar file."""
    with tarfile.open(path, "w", format=style) as tar:
        for entry, content in entries:
            tar.addfile(entry, io.BytesIO(content))
    return path


EVIL: dict[str, tuple[list[Entry], str]] = {
    "a member outside": ([OVF, DISK, regular("../evil", b"x")], "outside its own folder"),
    "deep outside": ([OVF, DISK, regular("a/../../evil", b"x")], "outside its own folder"),
    "an absolute member": ([OVF, DISK, regular("/tmp/evil", b"x")], "outside its own folder"),
    "a member below": ([OVF, DISK, regular("a/evil", b"x")], "outside its own folder"),
    "a hidden member": ([OVF, DISK, regular(".bashrc", b"x")], "outside its own folder"),
    "the disk outside": ([OVF, regular("../disk.vmdk", CONTENT)], "outside its own folder"),
    "a symbolic link": ([OVF, special("disk.vmdk", tarfile.SYMTYPE, "/etc/passwd")], "a link"),
    "a hard link": ([OVF, special("disk.vmdk", tarfile.LNKTYPE, "/etc/passwd")], "a link"),
    "a link beside": ([OVF, DISK, special("x", tarfile.SYMTYPE, "/etc")], "a link"),
    "a device": ([OVF, special("disk.vmdk", tarfile.BLKTYPE)], "a device"),
    "a terminal": ([OVF, DISK, special("tty", tarfile.CHRTYPE)], "a device"),
    "a pipe": ([OVF, special("disk.vmdk", tarfile.FIFOTYPE)], "a pipe"),
    "a folder": ([OVF, DISK, special("folder", tarfile.DIRTYPE)], "a folder"),
    "two disks of one name": ([OVF, DISK, DISK], "two files of the name 'disk.vmdk'"),
    "two descriptors": ([OVF, regular("b.ovf", b"<x/>"), DISK], "has 2 OVF descriptors"),
    "no descriptor": ([DISK], "has no OVF descriptor"),
    "no disk": ([OVF], "lacks the file 'disk.vmdk'"),
    "another descriptor": (
        [OVF, manifest(GOOD | {"vm.ovf": b"other"}), DISK],
        "another 'vm.ovf' than its manifest says",
    ),
    "a manifest without the disk": (
        [OVF, manifest({"vm.ovf": DESCRIPTOR.encode()}), DISK],
        "says nothing of 'disk.vmdk'",
    ),
    "a manifest without the descriptor": (
        [OVF, manifest({"disk.vmdk": CONTENT}), DISK],
        "says nothing of 'vm.ovf'",
    ),
    "a manifest with more": (
        [OVF, manifest(GOOD | {"other.vmdk": b"x"}), DISK],
        "lacks the file 'other.vmdk'",
    ),
    "a manifest twice": (
        [OVF, regular("vm.mf", manifest(GOOD)[1] + manifest(GOOD)[1]), DISK],
        "twice",
    ),
    "a strange manifest": ([OVF, regular("vm.mf", b"MD5(a)= 00\n"), DISK], "with the line"),
    "an empty manifest": ([OVF, regular("vm.mf", b"\n"), DISK], "an empty manifest"),
    "a large manifest": ([OVF, regular("vm.mf", b"\n" * (2 << 20)), DISK], "more than 1 MiB"),
    "a large descriptor": ([regular("vm.ovf", b" " * (5 << 20)), DISK], "larger than 4 MiB"),
    "many members": ([OVF, *(regular(f"f{n}", b"") for n in range(1001))], "more than 1000"),
}
"""The members of each, and what is said of it."""
