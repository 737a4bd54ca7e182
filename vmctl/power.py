"""Starting and stopping, with what belongs to it."""

from __future__ import annotations

import time
from typing import Any

from vmctl.errors import GuestUnreachableError, VmctlError, WaitTimeoutError
from vmctl.hypervisor import forwards, networks
from vmctl.hypervisor.domains import Domain, State
from vmctl.progress import Phase

__all__ = ["apply_forwards", "start", "stop"]

# The agent is asked first; a guest that has not begun to stop by then gets the power button too.
_AGENT_SECONDS = 20.0


def start(domain: Domain, spec: dict[str, Any]) -> None:
    """Start a machine, with its networks, and open the ports that its spec forwards.

    Raises:
        NotFoundError: A network is gone.
        UnsupportedError: A network is not active and can't be started.
        ConflictError: A port is in use; the machine is off again.
    """
    for name in domain.networks():
        networks.ensure_active(domain.connection, name)
    domain.start()
    try:
        apply_forwards(domain, spec)
    except VmctlError:
        domain.destroy()
        raise


def apply_forwards(domain: Domain, spec: dict[str, Any]) -> None:
    """Open the ports that a recorded spec forwards, as far as they are not open."""
    wanted = [
        (nic["mac"].lower(), forward)
        for nic in spec.get("nics") or ()
        for forward in nic.get("forwards") or ()
    ]
    if not wanted:
        return
    netdevs = forwards.user_netdevs(domain)
    open_now = {
        (entry.netdev, entry.protocol, entry.host_address, entry.host_port)
        for entry in forwards.list_forwards(domain)
    }
    for mac, forward in wanted:
        netdev = netdevs.get(mac)
        if netdev is None:
            continue
        protocol, address = forward.get("protocol", "tcp"), forward.get("address", "127.0.0.1")
        if (netdev, protocol, address, forward["host"]) not in open_now:
            forwards.add_forward(
                domain,
                netdev,
                guest_port=forward["guest"],
                host_port=forward["host"],
                protocol=protocol,
                host_address=address,
            )


def stop(domain: Domain, *, timeout: float, force: bool, phase: Phase) -> None:
    """Shut a machine down: by its agent, by its power button, and by force only when allowed.

    Args:
        domain: The machine; one that is off already is left so.
        timeout: Seconds that the guest has.
        force: Whether to pull the plug after that.
        phase: Told what is tried.

    Raises:
        WaitTimeoutError: The guest did not stop, and ``force`` was not given.
    """
    state = domain.state()
    if state in {State.SHUT_OFF, State.CRASHED}:
        return
    if state is State.PAUSED:
        # A paused guest hears nothing.
        domain.resume()
    deadline = time.monotonic() + timeout
    with domain.connection.events.listening(domain.uuid) as signal:

        def is_off() -> bool | None:
            return True if domain.state() in {State.SHUT_OFF, State.CRASHED} else None

        asked = timeout > 0 and _ask_agent(domain, phase)
        if asked and signal.wait_for(
            is_off, deadline=min(deadline, time.monotonic() + _AGENT_SECONDS)
        ):
            return
        pressed = False
        while time.monotonic() < deadline:
            phase.update("pressing its power button")
            _press(domain)
            pressed = True
            # A guest that still boots does not see the button; it is pressed again.
            if signal.wait_for(is_off, deadline=min(deadline, time.monotonic() + 10.0)):
                return
        if is_off():
            return
    if not force:
        heard = {"its agent was asked": asked, "its power button was pressed": pressed}
        raise WaitTimeoutError(
            f"'{domain.name}' did not shut down within {timeout:g} s",
            phase="shutdown",
            details=", ".join(text for text, true in heard.items() if true)
            or "it was not asked to: there was no time for that",
            hint="give it more time with --timeout, or end it at once with --force",
        )
    phase.update("ending it by force")
    domain.destroy()


def _ask_agent(domain: Domain, phase: Phase) -> bool:
    try:
        domain.agent("guest-ping", timeout=2)
    except VmctlError:
        # Whatever it says instead of an answer, the button and the plug are still there.
        return False
    phase.update("asking its agent")
    # Not by virDomainShutdownFlags, which itself waits a minute for the guest to be gone. This
    # command has no answer when it succeeds; an answer says that the guest can't do it.
    try:
        domain.agent("guest-shutdown", {"mode": "powerdown"}, timeout=1)
    except (GuestUnreachableError, WaitTimeoutError):
        return True
    except VmctlError:
        return False
    return True


def _press(domain: Domain) -> None:
    try:
        domain.shutdown()
    except VmctlError:
        if domain.is_active():
            raise
