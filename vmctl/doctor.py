"""What would make a launch fail: looked at beforehand, each with how to mend it.

Nothing is changed, started or made, and nothing is raised for a host that isn't there.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vmctl.errors import NotFoundError, PermissionDeniedError, UsageError, VmctlError

if TYPE_CHECKING:
    from vmctl.hypervisor.connection import Connection
    from vmctl.hypervisor.uri import HostAddress
    from vmctl.render.facts import HostFacts

__all__ = ["Check", "examine"]

Status = Literal["ok", "warn", "fail"]

_OLDEST_LIBVIRT = (8, 0, 0)
_OLDEST_QEMU = (6, 2, 0)
# Below this, the first images will not fit.
_LITTLE_SPACE = 5 << 30
_SYSTEM_SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
_DAEMONS = ("libvirtd", "virtqemud")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
# A driver of libvirt's for trying things: it has no QEMU, and so nothing below it.
_QEMU_SCHEMES = ("qemu", "kvm")


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one look found.

    Attributes:
        name: What was looked at; stable, for programs.
        status: ``ok``; ``warn`` for what only some machines need; ``fail`` for what makes
            launches fail.
        detail: What was seen, in one sentence.
        hint: How to mend it; empty when there is nothing to mend.
    """

    name: str
    status: Status
    detail: str
    hint: str = ""


def _ok(name: str, detail: str) -> Check:
    return Check(name=name, status="ok", detail=detail)


def examine(uri: str | None = None, *, pool: str | None = None) -> list[Check]:
    """Look at everything that a launch needs.

    Args:
        uri: The host, as for `vmctl.connect`.
        pool: The storage pool, as for `vmctl.connect`.

    Returns:
        The checks, in the order in which they build on each other. What can't be looked at because
        something before it failed is left out.
    """
    checks = [_python_binding()]
    if checks[0].status == "fail":
        return [*checks, *_client()]
    from vmctl.hypervisor.uri import resolve  # noqa: PLC0415 - it needs libvirt

    try:
        address = resolve(uri)
    except VmctlError as error:
        named = "private host" if isinstance(error, NotFoundError) else "host"
        where = uri or os.environ.get("VMCTL_URI") or "the default URI"
        hint = error.hint
        if isinstance(error, UsageError) and not hint:
            hint = "write for example qemu:///system, or private:NAME"
        detail = f"{error.brief} ({named} {where})" if where not in error.brief else error.brief
        return [*checks, Check(name="daemon", status="fail", detail=detail, hint=hint), *_client()]
    checks += _host(address, pool or os.environ.get("VMCTL_POOL") or "default")
    if address.is_local and _is_qemu(address):
        checks += _local_tools(address)
    return [*checks, *_client()]


def _is_qemu(address: HostAddress) -> bool:
    return address.uri.partition(":")[0].partition("+")[0] in _QEMU_SCHEMES


# -- the way to the host --------------------------------------------------------------------------


def _python_binding() -> Check:
    try:
        import libvirt  # noqa: PLC0415 - whether it can be had is the question
    except ImportError as error:
        return Check(
            name="libvirt-python",
            status="fail",
            detail=f"the Python package can't be loaded: {error}",
            hint="apt install libvirt-dev pkg-config python3-dev gcc && pip install libvirt-python",
        )
    version = _text(_version(libvirt.getVersion()))
    return _ok("libvirt-python", f"speaks libvirt {version}")


def _version(number: int) -> tuple[int, int, int]:
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _host(address: HostAddress, pool: str) -> Iterator[Check]:
    from vmctl.hypervisor.connection import Connection  # noqa: PLC0415 - it needs libvirt

    try:
        connection = Connection(address.uri)
    except VmctlError as error:
        yield Check(
            name="daemon",
            status="fail",
            detail=_in_one_line(error),
            hint=_daemon_hint(address, error),
        )
        return
    try:
        yield _ok("daemon", f"answers at {address.name}")
        yield from _versions_and_facts(connection, qemu=_is_qemu(address))
        yield _guarded("pool", lambda: _pool(connection, pool))
        yield _guarded("images", lambda: _images(connection))
        yield _guarded("network", lambda: _network(connection))
        yield _guarded("leftovers", lambda: _leftovers(connection))
    finally:
        connection.close()


def _daemon_hint(address: HostAddress, error: VmctlError) -> str:
    if not address.is_local:
        return (
            f"check that `ssh {address.ssh_host} virsh -c qemu:///system version` works without "
            "a question"
        )
    if isinstance(error, PermissionDeniedError):
        return (
            "sudo usermod -aG libvirt $USER, then log in again; or use qemu:///session, which "
            "needs no permission"
        )
    if not _is_qemu(address):
        return "write for example qemu:///system, or private:NAME"
    own = "; or bring up one of your own: vmctl host start NAME"
    path = os.pathsep.join((os.environ.get("PATH", ""), _SBIN))
    if not any(shutil.which(name, path=path) for name in _DAEMONS):
        return "apt install libvirt-daemon-system qemu-system-x86 qemu-utils"
    if not any(Path(socket).exists() for socket in _SYSTEM_SOCKETS):
        with_systemd = Path("/run/systemd/system").is_dir()
        start = "systemctl enable --now libvirtd" if with_systemd else "libvirtd -d"
        return f"libvirt is installed and does not run: sudo {start}{own}"
    return f"its socket is there, but nobody answers: sudo systemctl restart libvirtd{own}"


def _in_one_line(error: VmctlError) -> str:
    details = " ".join(error.details.split())
    return f"{error.brief}: {details}" if details else error.brief


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except VmctlError as error:
        return Check(name=name, status="warn", detail=_in_one_line(error), hint=error.hint)


# -- the host -------------------------------------------------------------------------------------


def _versions_and_facts(connection: Connection, *, qemu: bool) -> Iterator[Check]:
    from vmctl.hypervisor.facts import read_facts  # noqa: PLC0415 - it needs libvirt

    try:
        facts = read_facts(connection)
    except VmctlError as error:
        yield Check(
            name="capabilities",
            status="fail",
            detail=_in_one_line(error),
            hint="is QEMU installed on the host? apt install qemu-system-x86",
        )
        return
    yield _at_least("libvirt", facts.libvirt_version, _OLDEST_LIBVIRT)
    if not qemu:
        return
    yield _at_least("qemu", facts.qemu_version, _OLDEST_QEMU)
    yield from _abilities(facts)


def _at_least(name: str, version: tuple[int, ...], oldest: tuple[int, ...]) -> Check:
    if version >= oldest:
        return _ok(name, _text(version))
    return Check(
        name=name,
        status="fail",
        detail=f"{_text(version)} is older than {_text(oldest[:2])}, the oldest that vmctl knows",
        hint="upgrade the host: Debian 12 and Ubuntu 22.04 are new enough",
    )


def _abilities(facts: HostFacts) -> Iterator[Check]:
    if facts.arch not in facts.emulators:
        yield Check(
            name="emulator",
            status="fail",
            detail=f"the host has no QEMU for {facts.arch} guests",
            hint="apt install qemu-system-x86 (or that of the host's architecture)",
        )
    if facts.kvm:
        yield _ok("accelerator", f"KVM: {facts.kvm_reason}")
    else:
        yield Check(
            name="accelerator",
            status="warn",
            detail=f"emulation, which is slow: {facts.kvm_reason}",
            hint="switch on virtualization in the host's firmware, or nested virtualization in "
            "the hypervisor it runs on; then modprobe kvm_intel or kvm_amd",
        )
    yield _either(
        "uefi",
        bool(facts.firmware),
        "there is UEFI firmware"
        + (", with secure boot too" if any(image.secure_boot for image in facts.firmware) else ""),
        "no UEFI firmware: only machines with `firmware: bios` can be launched",
        "apt install ovmf, on the host",
    )
    yield _either(
        "tpm",
        facts.tpm,
        "an emulated TPM can be had",
        "no emulated TPM: machines with a `tpm` can't be launched",
        "apt install swtpm swtpm-tools, on the host",
    )


def _either(name: str, good: bool, yes: str, no: str, hint: str) -> Check:
    if good:
        return _ok(name, yes)
    return Check(name=name, status="warn", detail=no, hint=hint)


def _pool(connection: Connection, name: str) -> Check:
    raw = _look_up(f"find the pool '{name}'", lambda: connection.raw.storagePoolLookupByName(name))
    if raw is None:
        return Check(
            name="pool",
            status="fail",
            detail=f"there is no storage pool '{name}'",
            hint=f"virsh -c '{connection.uri}' 'pool-define-as {name} dir --target "
            f"{_usual_folder(connection)}; pool-build {name}; pool-start {name}; "
            f"pool-autostart {name}'",
        )
    from vmctl.hypervisor.errors import calling  # noqa: PLC0415 - it needs libvirt

    with calling(f"look at the pool '{name}'"):
        active = bool(raw.isActive())
        free = raw.info()[3] if active else 0
    if not active:
        return Check(
            name="pool",
            status="warn",
            detail=f"'{name}' is not active; vmctl starts it when it needs it",
            hint=f"virsh -c '{connection.uri}' pool-autostart {name}, so that it starts with "
            "the host",
        )
    amount = f"{free / (1 << 30):.1f} GiB"
    if free < _LITTLE_SPACE:
        return Check(
            name="pool",
            status="warn",
            detail=f"'{name}' has only {amount} left",
            hint="make room, or name another pool with --pool",
        )
    return _ok("pool", f"'{name}' is active, with {amount} free")


def _usual_folder(connection: Connection) -> str:
    if _is_session(connection.uri):
        return str(Path("~/.local/share/libvirt/images").expanduser())
    return "/var/lib/libvirt/images"


def _is_session(uri: str) -> bool:
    return uri.partition("?")[0].endswith("/session")


def _look_up(doing: str, look: Callable[[], Any]) -> Any | None:
    from vmctl.hypervisor.errors import calling  # noqa: PLC0415 - it needs libvirt

    try:
        with calling(doing):
            return look()
    except NotFoundError:
        return None


def _network(connection: Connection) -> Check:
    from vmctl.hypervisor.networks import list_networks  # noqa: PLC0415 - it needs libvirt

    found = list_networks(connection)
    active = [network.name for network in found if network.active]
    if "default" in active:
        return _ok("network", f"active: {', '.join(active)}")
    if _is_session(connection.uri):
        return _ok("network", "none, as in every session: machines get user-mode networking")
    user = "write `nics: [{user: true}]` in the spec, which needs no network"
    if any(network.name == "default" for network in found):
        return Check(
            name="network",
            status="warn",
            detail="the network 'default' is not active; vmctl tries to start it when it needs it",
            hint=f"virsh -c '{connection.uri}' 'net-start default; net-autostart default', "
            f"or {user}",
        )
    others = f" (active: {', '.join(active)})" if active else ""
    return Check(
        name="network",
        status="warn",
        detail=f"there is no network 'default'{others}",
        hint=f"{user}, or name another network there",
    )


def _images(connection: Connection) -> Check:
    from vmctl.integrity import broken_images  # noqa: PLC0415 - it needs libvirt

    found = broken_images(connection)
    if not found:
        return _ok("images", "what disks lie on is there, and unchanged")
    return Check(
        name="images",
        status="fail",
        detail="; ".join(found),
        hint="bring the image back (`vmctl image pull` or `import`), or delete what lies on it",
    )


def _leftovers(connection: Connection) -> Check:
    from vmctl.gc import collect  # noqa: PLC0415 - it needs libvirt

    found = collect(connection, dry_run=True)
    if not found:
        return _ok("leftovers", "no client left anything half-made")
    names = ", ".join(entry.name for entry in found)
    return Check(
        name="leftovers",
        status="warn",
        detail=f"{len(found)} half-made by clients that were killed: {names}",
        hint="vmctl gc",
    )


# -- the client -----------------------------------------------------------------------------------


def _local_tools(address: HostAddress) -> Iterator[Check]:
    path = os.pathsep.join((os.environ.get("PATH", ""), _SBIN))
    session = _is_session(address.uri)
    wanted: tuple[tuple[str, Status, str, str], ...] = (
        ("qemu-img", "fail", "libvirt makes disks with it", "qemu-utils"),
        *(() if session else (("dnsmasq", "warn", "NAT networks need it", "dnsmasq-base"),)),
    )
    for program, status, why, package in wanted:
        found = shutil.which(program, path=path)
        if found is not None:
            yield Check(name=program, status="ok", detail=found)
        else:
            yield Check(
                name=program,
                status=status,
                detail=f"{program} is not installed: {why}",
                hint=f"apt install {package}",
            )


def _client() -> list[Check]:
    from vmctl.guest.identity import client_key_path, own_key  # noqa: PLC0415 - it costs time

    path = client_key_path()
    try:
        mode = path.stat().st_mode
        own_key()
    except FileNotFoundError:
        return [_no_key_yet(path)]
    except (VmctlError, OSError) as error:
        detail = _in_one_line(error) if isinstance(error, VmctlError) else f"{path}: {error}"
        hint = getattr(error, "hint", "") or f"make {path} readable for you, and for you only"
        return [Check(name="client-key", status="fail", detail=detail, hint=hint)]
    if stat.S_IMODE(mode) & 0o077:
        detail = f"{path} can be read by others"
        return [Check(name="client-key", status="warn", detail=detail, hint=f"chmod 600 {path}")]
    return [_ok("client-key", str(path))]


def _no_key_yet(path: Path) -> Check:
    folder = next(parent for parent in path.parents if parent.exists())
    if os.environ.get("VMCTL_SSH_KEY") or os.access(folder, os.W_OK):
        return _ok("client-key", f"{path} will be made by the first launch")
    return Check(
        name="client-key",
        status="fail",
        detail=f"{path} isn't there, and can't be made: {folder} is not writable",
        hint="set VMCTL_SSH_KEY to a private key that has its .pub beside it",
    )
