"""What this machine must have to reach a host: libvirt's binding, programs, a key."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from vmctl.doctor.check import Check, Status, in_one_line, ok, version_text
from vmctl.errors import VmctlError

__all__ = ["client_key", "local_tools", "python_binding"]


def python_binding() -> Check:
    """Look whether libvirt can be spoken to at all."""
    try:
        import libvirt  # noqa: PLC0415 - whether it can be had is the question
    except ImportError as error:
        return Check(
            name="libvirt-python",
            status="fail",
            detail=f"the Python package can't be loaded: {error}",
            hint="apt install libvirt-dev pkg-config python3-dev gcc && pip install libvirt-python",
        )
    version = version_text(_version(libvirt.getVersion()))
    return ok("libvirt-python", f"speaks libvirt {version}")


def _version(number: int) -> tuple[int, int, int]:
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def local_tools(*, session: bool) -> Iterator[Check]:
    """Look for the programs that libvirt takes on this machine.

    Args:
        session: Whether it is an ordinary user's libvirtd, which has no networks.
    """
    from vmctl.hypervisor.private.programs import find  # noqa: PLC0415 - it needs libvirt

    wanted: tuple[tuple[str, Status, str, str], ...] = (
        ("qemu-img", "fail", "libvirt makes disks with it", "qemu-utils"),
        *(() if session else (("dnsmasq", "warn", "NAT networks need it", "dnsmasq-base"),)),
    )
    for program, status, why, package in wanted:
        found = find(program)
        if found is not None:
            yield Check(name=program, status="ok", detail=found)
        else:
            yield Check(
                name=program,
                status=status,
                detail=f"{program} is not installed: {why}",
                hint=f"apt install {package}",
            )


def client_key() -> Check:
    """Look at the key that this client logs in with."""
    from vmctl.guest.identity import client_key_path, own_key  # noqa: PLC0415 - it costs time

    path = client_key_path()
    try:
        mode = path.stat().st_mode
        own_key()
    except FileNotFoundError:
        return _no_key_yet(path)
    except (VmctlError, OSError) as error:
        detail = in_one_line(error) if isinstance(error, VmctlError) else f"{path}: {error}"
        hint = getattr(error, "hint", "") or f"make {path} readable for you, and for you only"
        return Check(name="client-key", status="fail", detail=detail, hint=hint)
    if stat.S_IMODE(mode) & 0o077:
        detail = f"{path} can be read by others"
        return Check(name="client-key", status="warn", detail=detail, hint=f"chmod 600 {path}")
    return ok("client-key", str(path))


def _no_key_yet(path: Path) -> Check:
    folder = next(parent for parent in path.parents if parent.exists())
    if os.environ.get("VMCTL_SSH_KEY") or os.access(folder, os.W_OK):
        return ok("client-key", f"{path} will be made by the first launch")
    return Check(
        name="client-key",
        status="fail",
        detail=f"{path} isn't there, and can't be made: {folder} is not writable",
        hint="set VMCTL_SSH_KEY to a private key that has its .pub beside it",
    )
