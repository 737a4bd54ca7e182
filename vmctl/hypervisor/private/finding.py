"""Private hosts: what they are to those who use them, found by name and listed."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from vmctl.errors import HostUnavailableError, NotFoundError, UsageError
from vmctl.hypervisor.private.layout import Kind, Layout, Network, layout_for, state_home
from vmctl.hypervisor.private.record import Record

__all__ = ["PrivateHost", "find", "from_uri", "handle_of", "list_hosts"]

_SCHEME = "private:"


@dataclasses.dataclass(frozen=True, slots=True)
class PrivateHost:
    """A handle to a libvirtd of one's own.

    Attributes:
        name: What it is called.
        state_dir: The folder with everything that it keeps.
        uri: The libvirt URI it is reached by.
        kind: ``system``, with all of libvirt, when root started it; else ``session``.
        network: ``own`` when its guests' network is apart from the machine's, else ``host``.
        warnings: What it lacks, one sentence each.
    """

    name: str
    state_dir: Path
    uri: str
    kind: Kind
    network: Network
    warnings: tuple[str, ...]
    _record: Record = dataclasses.field(repr=False)

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self._record.running

    @property
    def network_namespace(self) -> Path | None:
        """The file to give ``setns`` to reach its guests; None when they are on the machine's."""
        if self.network == "host" or self._record.init is None:
            return None
        return Path(f"/proc/{self._record.init.pid}/ns/net")

    @property
    def host_uuid(self) -> str:
        """The UUID by which its libvirt knows itself."""
        return self._record.id

    def stop(self, *, force: bool = False) -> None:
        """End it and remove everything it kept; see :func:`host.stop`."""
        # Most look for a host to use it; what it takes to end one is loaded here.
        from vmctl.hypervisor.private.host import stop  # noqa: PLC0415

        stop(self.name, state_home=self.state_dir.parent.parent, force=force)


def find(name: str, *, state_home: Path | None = None) -> PrivateHost:
    """Return the private host of this name, which runs.

    Raises:
        NotFoundError: There is none.
        HostUnavailableError: It doesn't run, or not yet.
    """
    layout = layout_for(name, state_home)
    record = Record.read(layout.record)
    if record is None:
        raise NotFoundError(
            f"there is no private host {name}", hint=f"start one: vmctl host start {name}"
        )
    if not record.running:
        raise HostUnavailableError(
            f"private host {name} is not running", hint=f"vmctl host start {name}"
        )
    if not record.ready:
        raise HostUnavailableError(
            f"private host {name} is being started", hint=f"wait for it: vmctl host start {name}"
        )
    return handle_of(layout, record)


def from_uri(uri: str) -> PrivateHost:
    """Return the private host that ``private:NAME`` names; raises as :func:`find` does.

    Raises:
        UsageError: That isn't what ``uri`` looks like.
    """
    if not uri.startswith(_SCHEME):
        raise UsageError(f"{uri!r} does not name a private host", hint="write private:NAME")
    return find(uri.removeprefix(_SCHEME))


def list_hosts(*, state_home: Path | None = None) -> list[PrivateHost]:
    """Return every private host of this user by name, those that no longer run included."""
    folder = (state_home or _default_home()).absolute() / "hosts"
    hosts = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for entry in sorted(folder.iterdir()):
            with contextlib.suppress(UsageError):
                layout = layout_for(entry.name, folder.parent)
                if record := Record.read(layout.record):
                    hosts.append(handle_of(layout, record))
    return hosts


_default_home = state_home


def handle_of(layout: Layout, record: Record) -> PrivateHost:
    """Return the handle to a host that has been started."""
    return PrivateHost(
        name=layout.name,
        state_dir=layout.state_dir,
        uri=layout.uri(record.kind),
        kind=record.kind,
        network=record.network,
        warnings=record.warnings,
        _record=record,
    )
