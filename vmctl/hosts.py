"""Private hosts, as users speak of them: a libvirtd of one's own, started, listed and stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vmctl.hypervisor import private

__all__ = ["HostSummary", "list_hosts", "start_host", "stop_host"]


@dataclass(frozen=True, kw_only=True)
class HostSummary:
    """A private host.

    Attributes:
        name: Its name.
        uri: What to connect to: ``private:NAME``.
        libvirt_uri: The same, for other tools that speak libvirt.
        kind: ``system``, with all of libvirt, when root started it; else ``session``.
        network: ``own`` when its guests' network is apart from the machine's, else ``host``.
        running: Whether it runs.
        state_dir: The folder with everything that it keeps.
        warnings: What it lacks, one sentence each.
    """

    name: str
    uri: str
    libvirt_uri: str
    kind: str
    network: str
    running: bool
    state_dir: Path
    warnings: tuple[str, ...] = ()


def start_host(
    name: str, *, network: Literal["own", "host"] | None = None, tether: bool = False
) -> HostSummary:
    """Start a private host, or return the one of this name that runs already.

    Args:
        name: 1 to 31 lower-case letters, digits and hyphens.
        network: ``own`` gives it a network namespace with a NAT network, which needs root;
            ``host`` leaves it on this machine's network, with user-mode networking. None for
            ``own`` where that can be had.
        tether: Whether it ends, and is removed, when this process ends in whatever way. Has no
            effect on a host that runs already.

    Raises:
        UsageError: That can't be its name.
        UnsupportedError: A program is missing, or this user can't have such a network.
        ConflictError: It runs already with another kind of network.
        HostUnavailableError: It doesn't come up; the end of its logs is in ``details``.
    """
    return _summary(private.start(name, network=network, tether=tether))


def list_hosts() -> list[HostSummary]:
    """Return this user's private hosts, by name; those that no longer run included."""
    return [_summary(host) for host in private.list_hosts()]


def stop_host(name: str, *, force: bool = False) -> None:
    """End a private host, and remove everything that it kept.

    Args:
        name: Which.
        force: Whether to do so when it still has guests.

    Raises:
        NotFoundError: There is none of that name.
        ConflictError: It has guests, and ``force`` is not given.
        RollbackError: Something of it could not be ended or removed.
    """
    private.stop(name, force=force)


def _summary(host: private.PrivateHost) -> HostSummary:
    return HostSummary(
        name=host.name,
        uri=f"private:{host.name}",
        libvirt_uri=host.uri,
        kind=host.kind,
        network=host.network,
        running=host.running,
        state_dir=host.state_dir,
        warnings=host.warnings,
    )
