"""What a host must have: its libvirtd, QEMU, a pool, a network; and what is broken there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmctl.doctor.check import Check, in_one_line, ok, version_text
from vmctl.errors import NotFoundError, PermissionDeniedError, VmctlError, WrongStateError

if TYPE_CHECKING:
    from vmctl.hypervisor.connection import Connection
    from vmctl.hypervisor.uri import HostAddress
    from vmctl.render.facts import HostFacts

__all__ = ["examine_host", "is_qemu", "is_session"]

_OLDEST_LIBVIRT = (8, 0, 0)
_OLDEST_QEMU = (6, 2, 0)
# Below this, the first images will not fit.
_LITTLE_SPACE = 5 << 30
_SYSTEM_SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
_DAEMONS = ("libvirtd", "virtqemud")
# A driver of libvirt's for trying things: it has no QEMU, and so nothing below it.
_QEMU_SCHEMES = ("qemu", "kvm")


def is_qemu(address: HostAddress) -> bool:
    """Return whether it is a host with QEMU."""
    return address.uri.partition(":")[0].partition("+")[0] in _QEMU_SCHEMES


def is_session(uri: str) -> bool:
    """Return whether it is an ordinary user's own libvirtd."""
    return uri.partition("?")[0].endswith("/session")


def examine_host(address: HostAddress, pool: str) -> Iterator[Check]:
    """Look at a host, and at what is on it.

    Args:
        address: The host.
        pool: The storage pool that launches are going to use.
    """
    from vmctl.hypervisor.connection import Connection  # noqa: PLC0415 - it needs libvirt

    try:
        connection = Connection(address.uri)
    except VmctlError as error:
        yield Check(
            name="daemon",
            status="fail",
            detail=in_one_line(error),
            hint=_daemon_hint(address, error),
        )
        return
    try:
        yield ok("daemon", f"answers at {address.name}")
        yield from _versions_and_facts(connection, qemu=is_qemu(address))
        yield _guarded("pool", lambda: _pool(connection, pool))
        yield _guarded("images", lambda: _images(connection))
        yield _guarded("layers", lambda: _layers(connection))
        yield _guarded("network", lambda: _network(connection))
        yield _guarded("lost", lambda: _lost(connection))
        if is_qemu(address) and not is_session(connection.uri):
            yield _guarded("filters", lambda: _filters(connection, address))
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
    if not is_qemu(address):
        return "write for example qemu:///system, or private:NAME"
    from vmctl.hypervisor.private.programs import find  # noqa: PLC0415 - it needs libvirt

    own = "; or bring up one of your own: vmctl host start NAME"
    if not any(find(name) for name in _DAEMONS):
        return "apt install libvirt-daemon-system qemu-system-x86 qemu-utils"
    if not any(Path(socket).exists() for socket in _SYSTEM_SOCKETS):
        with_systemd = Path("/run/systemd/system").is_dir()
        start = "systemctl enable --now libvirtd" if with_systemd else "libvirtd -d"
        return f"libvirt is installed and does not run: sudo {start}{own}"
    return f"its socket is there, but nobody answers: sudo systemctl restart libvirtd{own}"


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except VmctlError as error:
        return Check(name=name, status="warn", detail=in_one_line(error), hint=error.hint)


def _versions_and_facts(connection: Connection, *, qemu: bool) -> Iterator[Check]:
    from vmctl.hypervisor.facts import read_facts  # noqa: PLC0415 - it needs libvirt

    try:
        facts = read_facts(connection)
    except VmctlError as error:
        yield Check(
            name="capabilities",
            status="fail",
            detail=in_one_line(error),
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
        return ok(name, version_text(version))
    return Check(
        name=name,
        status="fail",
        detail=f"{version_text(version)} is older than {version_text(oldest[:2])}, "
        "the oldest that vmctl knows",
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
        yield ok("accelerator", f"KVM: {facts.kvm_reason}")
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
        return ok(name, yes)
    return Check(name=name, status="warn", detail=no, hint=hint)


def _pool(connection: Connection, name: str) -> Check:
    raw = _look_up(f"find the pool '{name}'", lambda: connection.raw.storagePoolLookupByName(name))
    if raw is None:
        return Check(
            name="pool",
            status="fail",
            detail=f"there is no storage pool '{name}'",
            hint=f"echo '{{name: {name}, type: dir, target: {_usual_folder(connection)}}}' | "
            f"vmctl -c '{connection.uri}' pool create -",
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
    return ok("pool", f"'{name}' is active, with {amount} free")


def _usual_folder(connection: Connection) -> str:
    if is_session(connection.uri):
        return str(Path("~/.local/share/libvirt/images").expanduser())
    return "/var/lib/libvirt/images"


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
        return ok("network", f"active: {', '.join(active)}")
    if is_session(connection.uri):
        return ok("network", "none, as in every session: machines get user-mode networking")
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


def _filters(connection: Connection, address: HostAddress) -> Check:
    """Look for what keeps guests to their own addresses, and for what security groups need."""
    from vmctl.hypervisor.bridge_filtering import (  # noqa: PLC0415 - it needs libvirt
        HINT,
        bridges_are_seen,
    )
    from vmctl.hypervisor.nwfilters import has_filters  # noqa: PLC0415 - as above
    from vmctl.hypervisor.private.programs import find  # noqa: PLC0415 - as above

    problem, hint = "", ""
    if not has_filters(connection):
        problem = "libvirt has no packet filters: `antispoofing` and `security_groups` can't be had"
        hint = "apt install libvirt-daemon-system, on the host"
    elif address.is_local and not find("ebtables"):
        problem = "there is no ebtables: machines with `antispoofing` can't be started"
        hint = "apt install iptables (or ebtables), on the host"
    elif bridges_are_seen(address) is False:
        problem = "the kernel doesn't show bridged packets to iptables: no `security_groups`"
        hint = HINT
    if problem:
        return Check(name="filters", status="warn", detail=problem, hint=hint)
    return ok("filters", "guests can be kept to their own addresses, and apart by security groups")


def _images(connection: Connection) -> Check:
    from vmctl.integrity import broken_images  # noqa: PLC0415 - it needs libvirt

    found = broken_images(connection)
    if not found:
        return ok("images", "what disks lie on is there, and unchanged")
    return Check(
        name="images",
        status="fail",
        detail="; ".join(found),
        hint="bring the image back (`vmctl image pull` or `import`), or delete what lies on it",
    )


def _layers(connection: Connection) -> Check:
    from vmctl.integrity import MANY_LAYERS, long_chains  # noqa: PLC0415 - it needs libvirt

    found = long_chains(connection)
    if not found:
        return ok("layers", f"no disk is made of more than {MANY_LAYERS} files")
    return Check(
        name="layers",
        status="warn",
        detail="; ".join(found),
        hint="delete snapshots that are not needed: `vmctl snapshot prune` and `delete`; "
        "`vmctl snapshot merge` merges what a deletion has left",
    )


def _lost(connection: Connection) -> Check:
    # These need libvirt.
    from vmctl.hypervisor.lost import refuse_lost  # noqa: PLC0415
    from vmctl.hypervisor.metadata import Phase  # noqa: PLC0415
    from vmctl.hypervisor.names import list_domains  # noqa: PLC0415

    for listed in list_domains(connection):
        # While nothing ends, libvirt loses nothing; and a look at a disk keeps others away.
        if listed.record is None or listed.record.phase is not Phase.MERGING:
            continue
        try:
            refuse_lost(listed.domain)
        except WrongStateError as error:
            return Check(name="lost", status="fail", detail=in_one_line(error), hint=error.hint)
    return ok("lost", "libvirt knows of the QEMU of each machine")


def _leftovers(connection: Connection) -> Check:
    from vmctl.gc import collect  # noqa: PLC0415 - it needs libvirt

    found = collect(connection, dry_run=True)
    if not found:
        return ok("leftovers", "no client left anything half-made")
    names = ", ".join(entry.name for entry in found)
    return Check(
        name="leftovers",
        status="warn",
        detail=f"{len(found)} half-made by clients that were killed: {names}",
        hint="vmctl gc",
    )
