"""The folders and files that a private host starts with."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from vmctl.hypervisor.private import config, teardown
from vmctl.hypervisor.private.confinement import MACHINE_FOLDERS
from vmctl.hypervisor.private.layout import Layout
from vmctl.hypervisor.private.record import Record

__all__ = ["write_state"]


def write_state(layout: Layout, record: Record) -> Path:
    """Make everything a host needs before its daemons start.

    Returns:
        The folder of its pool, as its libvirtd sees it.
    """
    layout.home.mkdir(mode=0o700)
    if record.kind == "system":
        etc, images = _system(layout)
        pool = Path(MACHINE_FOLDERS["lib"]) / "images"
    else:
        etc, images = _session(layout, record.short_dir or "")
        pool = images
    images.mkdir()
    images.chmod(0o711)  # QEMU, which runs as another user under root's libvirtd, passes through
    # Both daemons would make it, but only after they have tried to put their pid files there.
    layout.socket.parent.mkdir(mode=0o755)
    for name, text in (
        ("libvirtd.conf", config.libvirtd_conf(host_uuid=record.id)),
        ("qemu.conf", config.qemu_conf()),
        ("virtlogd.conf", config.virtlogd_conf()),
    ):
        (etc / name).write_text(text, encoding="utf-8")
    return pool


def _session(layout: Layout, short_dir: str) -> tuple[Path, Path]:
    Path(short_dir).mkdir(mode=0o700)
    teardown.short_link(short_dir).symlink_to(layout.run)
    etc = layout.run / "c" / "libvirt"
    etc.mkdir(mode=0o700, parents=True)
    for name in ("cache", "lib"):
        (layout.state_dir / name).mkdir(mode=0o700)
    return etc, layout.state_dir / "images"


def _system(layout: Layout) -> tuple[Path, Path]:
    for name, machine in MACHINE_FOLDERS.items():
        folder = layout.state_dir / name
        folder.mkdir()
        _own_as(Path(machine), folder)
    _fill_etc(layout.state_dir / "etc")
    _fill_run(layout.run)
    # swtpm's logs go beside libvirt's, and libvirt doesn't make folders above its own.
    for name in ("libvirt", "swtpm"):
        (layout.state_dir / "log" / name).mkdir()
    machine_hosts = Path("/etc/hosts")
    known = machine_hosts.read_text(encoding="utf-8") if machine_hosts.exists() else ""
    (layout.state_dir / "hosts-file").write_text(
        config.hosts_file(known, layout.name), encoding="utf-8"
    )
    return layout.state_dir / "etc", layout.state_dir / "lib" / "images"


def _own_as(machine: Path, folder: Path) -> None:
    """Give ``folder`` the owner and mode that the machine's has: swtpm's user writes to its own."""
    with contextlib.suppress(FileNotFoundError):
        status = machine.stat()
        os.chown(folder, status.st_uid, status.st_gid)
        folder.chmod(status.st_mode & 0o7777)


def _fill_etc(etc: Path) -> None:
    # libvirt's own packet filters (clean-traffic and the like), which guests' NICs refer to.
    filters = Path(MACHINE_FOLDERS["etc"]) / "nwfilter"
    if filters.is_dir():
        shutil.copytree(filters, etc / "nwfilter")


def _fill_run(run: Path) -> None:
    (run / "lock").mkdir()
    (run / "lock").chmod(0o1777)
    # Where a service manages it, the machine's resolv.conf is a link into /run.
    with contextlib.suppress(OSError, ValueError):
        resolver = Path("/etc/resolv.conf").resolve(strict=True)
        copy = run / resolver.relative_to("/run")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(resolver.read_bytes())
