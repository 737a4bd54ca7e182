"""What a private host gets before it is handed over.

A pool, a network, and a libvirt that has looked at its QEMU already.
"""

from __future__ import annotations

import contextlib
import operator
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from vmctl.errors import HostUnavailableError, VmctlError
from vmctl.hypervisor.private import programs
from vmctl.hypervisor.private.layout import Layout
from vmctl.hypervisor.private.process import ProcessIdentity

__all__ = ["guests_of", "opened", "prepare"]

_POOL = """\
<pool type='dir'>
  <name>default</name>
  <target><path>{path}</path></target>
</pool>
"""
_NETWORK = """\
<network>
  <name>default</name>
  <forward mode='nat'/>
  <bridge name='virbr0' stp='on' delay='0'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp>
  </ip>
</network>
"""
_RETRY_SECONDS = 0.01
_ANSWER_SECONDS = 15.0
_HINT = "see what libvirtd.log in the host's state folder says, and `vmctl doctor`"


@contextlib.contextmanager
def opened(uri: str) -> Iterator[Any]:
    """Open a libvirt connection (``libvirt.virConnect``) for a moment.

    Raises:
        HostUnavailableError: libvirtd does not answer.
    """
    import libvirt  # noqa: PLC0415 - it takes longer to load than most of what else is done

    # As in `vmctl.hypervisor.eventloop`: its errors come as exceptions, and signals in between.
    libvirt.registerErrorHandler(operator.is_, None)
    try:
        connection = libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise HostUnavailableError(
            f"libvirtd does not answer at {uri}: {error}", hint=_HINT
        ) from error
    try:
        yield connection
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            connection.close()


def guests_of(uri: str) -> list[str]:
    """Return every guest that is defined or runs, each as ``name (running)`` or ``name (off)``.

    Raises:
        HostUnavailableError: libvirtd does not answer, or not within some seconds.
    """
    answers: list[list[str] | VmctlError] = []

    def ask() -> None:
        try:
            with opened(uri) as connection:
                answers.append(
                    sorted(
                        f"{domain.name()} ({'running' if domain.isActive() else 'off'})"
                        for domain in connection.listAllDomains()
                    )
                )
        except VmctlError as error:
            answers.append(error)
        except Exception as error:  # noqa: BLE001 - it is raised again, in the caller's thread
            answers.append(
                HostUnavailableError(
                    f"libvirtd does not say what guests it has: {error}",
                    hint="try again, or stop the host with --force",
                )
            )

    # A libvirtd that hangs answers never, and libvirt's client would wait for it as long.
    asking = threading.Thread(target=ask, name="vmctl-guests-of", daemon=True)
    asking.start()
    asking.join(_ANSWER_SECONDS)
    answer = answers[0] if answers else None
    if isinstance(answer, list):
        return answer
    raise answer or HostUnavailableError(
        f"libvirtd does not answer at {uri} within {_ANSWER_SECONDS:g} s",
        hint="stop the host with --force, which does not ask it for its guests",
    )


def prepare(
    layout: Layout,
    uri: str,
    init: ProcessIdentity,
    *,
    pool: Path,
    nat: bool,
    deadline: float,
) -> tuple[str, ...]:
    """Wait until libvirtd answers, and set the host up.

    Args:
        layout: The host.
        uri: Its libvirt URI.
        init: Its first process, without which nothing will answer any more.
        pool: The folder of the pool ``default``, as libvirtd sees it.
        nat: Whether there is to be a NAT network ``default``.
        deadline: When to give up, on ``time.monotonic()``'s clock.

    Returns:
        What the host lacks, one sentence each.

    Raises:
        HostUnavailableError: libvirtd does not come up, or refuses.
    """
    _wait_for_socket(layout, init, deadline)
    # A libvirtd that hangs would keep the calls below for ever. Without its host it can't.
    watchdog = threading.Timer(deadline - time.monotonic(), _kill, (init,))
    watchdog.daemon = True
    watchdog.start()
    try:
        return _set_up(uri, pool, nat=nat)
    finally:
        watchdog.cancel()


def _set_up(uri: str, pool_folder: Path, *, nat: bool) -> tuple[str, ...]:
    import libvirt  # noqa: PLC0415

    with opened(uri) as connection:
        try:
            pool = connection.storagePoolDefineXML(_POOL.format(path=escape(str(pool_folder))))
            pool.setAutostart(1)
            pool.create()
            warnings = _network(connection) if nat else ()
            # libvirt asks QEMU what it can do when it is first asked itself. Better now than in
            # the first launch.
            connection.getCapabilities()
            connection.getDomainCapabilities()
        except libvirt.libvirtError as error:
            raise HostUnavailableError(
                f"libvirtd can't set the host up: {error}", hint=_HINT
            ) from error
        return warnings


def _network(connection: Any) -> tuple[str, ...]:
    import libvirt  # noqa: PLC0415

    missing = [
        f"there is no network 'default', because {program} is not installed "
        f"(package {programs.package_of(program)})"
        for program in ("dnsmasq", "iptables")
        if programs.find(program) is None
    ]
    if missing:
        return tuple(missing)
    network = connection.networkDefineXML(_NETWORK)
    try:
        network.create()
        network.setAutostart(1)
    except libvirt.libvirtError as error:
        with contextlib.suppress(libvirt.libvirtError):
            network.undefine()
        return (f"there is no network 'default': {error}",)
    return ()


def _wait_for_socket(layout: Layout, init: ProcessIdentity, deadline: float) -> None:
    try:
        descriptor = os.pidfd_open(init.pid)
    except ProcessLookupError:
        raise _ended() from None
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while not _accepts(layout.socket):
            if poll.poll(_RETRY_SECONDS * 1000):
                raise _ended()
            if time.monotonic() > deadline:
                raise HostUnavailableError("libvirtd does not open its socket", hint=_HINT)
    finally:
        os.close(descriptor)


def _ended() -> HostUnavailableError:
    return HostUnavailableError("the host ended while it was being started", hint=_HINT)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return False
    return True


def _kill(init: ProcessIdentity) -> None:
    init.signal(signal.SIGKILL)
