"""Private hosts: starting and stopping them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import time
import uuid
from pathlib import Path

from vmctl.errors import (
    ConflictError,
    HostUnavailableError,
    NotFoundError,
    UnsupportedError,
    UsageError,
    VmctlError,
)
from vmctl.hypervisor.private import programs, teardown
from vmctl.hypervisor.private.finding import PrivateHost, handle_of
from vmctl.hypervisor.private.launcher import Launch
from vmctl.hypervisor.private.layout import Kind, Layout, Network, layout_for
from vmctl.hypervisor.private.locking import lock
from vmctl.hypervisor.private.preparation import guests_of, prepare
from vmctl.hypervisor.private.record import Record
from vmctl.hypervisor.private.state import write_state
from vmctl.progress import being_undone

__all__ = ["start", "stop"]

_START_SECONDS = 60.0
_LOG_LINES = 12


def start(
    name: str,
    *,
    network: Network | None = None,
    state_home: Path | None = None,
    tether: bool = False,
) -> PrivateHost:
    """Start a private host, or return the one of this name that runs already.

    What a host of this name left when it crashed is removed first, its guests' disks included.

    Args:
        name: 1 to 31 lower-case letters, digits and hyphens.
        network: ``own`` gives it a network namespace with a NAT network ``default``, which only
            root can have; ``host`` leaves it on the machine's network, where its guests have
            user-mode networking. By default ``own`` for root and ``host`` for others.
        state_home: The folder below which its state goes; see :func:`layout.state_home`.
        tether: Whether it ends, and is removed, when this process ends in whatever way. Has no
            effect on a host that runs already.

    Raises:
        UsageError: The name or the state folder can't be used.
        UnsupportedError: A program is missing, or this user can't have such a network.
        ConflictError: It runs with another kind of network, or its folder is something else.
        HostUnavailableError: It doesn't come up; the end of its logs is in ``details``.
    """
    layout = layout_for(name, state_home)
    kind: Kind = "system" if os.geteuid() == 0 else "session"
    wanted = _network_for(kind, network)
    for program in ("libvirtd", "virtlogd"):
        programs.require(program)
    with lock(layout):
        record = Record.read(layout.record)
        if record is not None and record.ready and record.running:
            if record.network != wanted and network is not None:
                raise ConflictError(
                    f"private host {name} runs already, with network={record.network}",
                    hint=f"stop it first: vmctl host stop {name}",
                )
            return handle_of(layout, record)
        _remove_debris(layout, record)
        return _start(layout, kind, wanted, tether=tether)


def stop(name: str, *, state_home: Path | None = None, force: bool = False) -> None:
    """End a private host and remove everything it kept: guests, disks, logs.

    Args:
        name: The host.
        state_home: Where its state is; see :func:`start`.
        force: Whether to do so when it still has guests, running or off. They are ended as if
            the power had failed. A host that no longer runs needs no force.

    Raises:
        NotFoundError: There is no such host.
        ConflictError: It has guests, and ``force`` is false.
        RollbackError: Something of it could not be ended or removed.
    """
    layout = layout_for(name, state_home)
    if not (os.path.lexists(layout.state_dir) or os.path.lexists(layout.trash)):
        raise NotFoundError(f"there is no private host {name}", hint="`vmctl host list` shows them")
    with lock(layout):
        record = Record.read(layout.record)
        if record is not None and record.running and record.ready and not force:
            guests = guests_of(layout.uri(record.kind))
            if guests:
                raise ConflictError(
                    f"private host {name} still has guests: {', '.join(guests)}",
                    hint="delete them, or stop it with --force, which removes them with it",
                )
        _remove_debris(layout, record)


def _network_for(kind: Kind, network: Network | None) -> Network:
    if network not in (None, "own", "host"):
        raise UsageError(
            f"a private host's network is 'own' or 'host', not {network!r}",
            hint="leave it out to have what this user can have",
        )
    if kind == "session" and network == "own":
        raise UnsupportedError(
            "a private host with a network of its own needs root",
            hint="use network=host: guests then have user-mode networking",
        )
    return network or ("own" if kind == "system" else "host")


def _remove_debris(layout: Layout, record: Record | None) -> None:
    """End and remove whatever there is of a host. Its lock must be held."""
    if record is not None:
        teardown.end_processes(layout, record)
    elif layout.state_dir.exists() and any(layout.state_dir.iterdir()) and not layout.is_debris:
        raise ConflictError(
            f"{layout.state_dir} is there, and is not the state of a private host",
            hint="move it away, or use another name",
        )
    teardown.remove_files(layout, record)


def _start(layout: Layout, kind: Kind, network: Network, *, tether: bool) -> PrivateHost:
    deadline = time.monotonic() + _START_SECONDS
    record = Record(id=str(uuid.uuid4()), kind=kind, network=network)
    if kind == "session":
        # The sockets of guests have long names below their folder, and 107 bytes in all. The name
        # can't be guessed, and mkdir refuses one that is taken.
        short_dir = f"/tmp/vmctl-{secrets.token_hex(4)}"  # noqa: S108
        record = dataclasses.replace(record, short_dir=short_dir)
    try:
        layout.state_dir.mkdir(mode=0o700)
        record.write(layout.record)
        pool = write_state(layout, record)
        with Launch(layout, deadline) as launch:
            record = dataclasses.replace(record, supervisor=launch.supervisor, init=launch.init)
            record.write(layout.record)
            uri = layout.uri(kind)
            nat = network == "own"
            warnings = prepare(layout, uri, launch.init, pool=pool, nat=nat, deadline=deadline)
            record = dataclasses.replace(record, ready=True, warnings=warnings)
            record.write(layout.record)
            launch.leave_alone(tether=tether)
    except BaseException as error:
        logs = _log_ends(layout)
        with being_undone():
            teardown.end_processes(layout, record)
            teardown.remove_files(layout, record)
        if isinstance(error, VmctlError):
            error.details = "\n".join(filter(None, (error.details, logs)))
        if isinstance(error, OSError):
            raise HostUnavailableError(
                f"private host {layout.name} can't be started: {error}",
                details=logs,
                hint="see that the state folder can be written to, and has room",
            ) from error
        raise
    return handle_of(layout, record)


def _log_ends(layout: Layout) -> str:
    """Return the last lines of the host's logs, each under its name."""
    parts = []
    for program in ("supervisor", "virtlogd", "libvirtd"):
        with contextlib.suppress(OSError):
            text = layout.log(program).read_text(encoding="utf-8", errors="replace")
            if lines := text.splitlines()[-_LOG_LINES:]:
                parts.append("\n".join((f"{program}.log:", *(f"  {line}" for line in lines))))
    return "\n".join(parts)
