"""A host: one connection to one libvirt, and what can be asked of it.

A verb imports what it is made of when it is called: who lists machines doesn't wait for what
launches them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from vmctl.guest.consoles import Consoles
from vmctl.guest.reach import Reach
from vmctl.guest.sessions import Sessions
from vmctl.hypervisor import names
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.uri import resolve
from vmctl.vm import VM

if TYPE_CHECKING:
    from vmctl import gc, info, launch
    from vmctl.events import Event, EventKind, EventListener, EventStream
    from vmctl.guest.identity import KeyPair
    from vmctl.guest.readiness import Deadlines
    from vmctl.images import Images
    from vmctl.networks import Networks
    from vmctl.pools import Pools
    from vmctl.progress import ProgressCallback
    from vmctl.render.facts import HostFacts
    from vmctl.render.templates import Templates
    from vmctl.security_groups import SecurityGroups
    from vmctl.spec import VMSpec
    from vmctl.stats import MachineStats
    from vmctl.transfer import importing
    from vmctl.volumes import Volumes

__all__ = ["Host", "connect"]


def connect(
    uri: str | None = None,
    *,
    pool: str | None = None,
    templates: str | os.PathLike[str] | None = None,
) -> Host:
    """Connect to a host.

    Args:
        uri: A libvirt URI, ``private:NAME`` for a private host, or None: ``VMCTL_URI``, else the
            system's libvirt where it may be used, else the user's session.
        pool: The storage pool for new volumes; None: ``VMCTL_POOL``, else ``default``.
        templates: A folder with ``domain_templates/`` or ``cloud-init/`` in it, whose files replace
            vmctl's own of the same name.

    Raises:
        HostUnavailableError: It can't be reached.
        PermissionDeniedError: It can, and refuses.
        NotFoundError: There is no private host of that name.
        UsageError: That is no URI.
    """
    return Host(uri, pool=pool, templates=templates)


class Host:
    """One hypervisor. Thread-safe. Close it, or use it in a ``with`` block."""

    def __init__(
        self,
        uri: str | None = None,
        *,
        pool: str | None = None,
        templates: str | os.PathLike[str] | None = None,
    ) -> None:
        self._address = resolve(uri)
        self._connection = Connection(self._address.uri, address=self._address)
        self._pool = pool or os.environ.get("VMCTL_POOL") or "default"
        self._templates: Templates | None = None
        if templates is not None:
            from vmctl.render.templates import Templates

            self._templates = Templates(Path(templates))
        self._lock = threading.Lock()
        self._facts: HostFacts | None = None
        self._key: KeyPair | None = None
        self._listeners: set[EventListener] = set()
        self.reach = Reach(self._address)
        self.sessions = Sessions()
        self.consoles = Consoles()

    def __repr__(self) -> str:
        return f"<Host {self._address.name!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, and every connection to its guests. The guests run on."""
        for listener in tuple(self._listeners):
            listener.close()
        self.sessions.close()
        self.consoles.close()
        self._connection.close()

    @property
    def uri(self) -> str:
        """What the user called it: a libvirt URI, or ``private:NAME``."""
        return self._address.name

    @property
    def facts(self) -> HostFacts:
        """What it can do; asked once."""
        from vmctl.hypervisor.facts import read_facts

        with self._lock:
            if self._facts is None:
                self._facts = read_facts(self._connection)
            return self._facts

    @property
    def pool(self) -> str:
        """The name of the pool for new volumes."""
        return self._pool

    @property
    def templates(self) -> Templates | None:
        """Where documents come from; None for the default chain."""
        return self._templates

    @property
    def key(self) -> KeyPair:
        """The client's own SSH key; made at first use."""
        from vmctl.guest.identity import own_key

        with self._lock:
            if self._key is None:
                self._key = own_key()
            return self._key

    @property
    def default_pool(self) -> str:
        """The name of the pool for new volumes."""
        return self._pool

    @property
    def images(self) -> Images:
        """The images in the pool for new volumes."""
        from vmctl.images import Images

        return Images(self._connection, self._pool)

    @property
    def pools(self) -> Pools:
        """Its storage pools."""
        from vmctl.pools import Pools

        return Pools(self._connection)

    @property
    def networks(self) -> Networks:
        """Its networks."""
        from vmctl.networks import Networks

        return Networks(self._connection)

    @property
    def security_groups(self) -> SecurityGroups:
        """Its security groups."""
        from vmctl.security_groups import SecurityGroups

        return SecurityGroups(self._connection)

    @property
    def volumes(self) -> Volumes:
        """The volumes in its storage pools."""
        from vmctl.volumes import Volumes

        return Volumes(self._connection, self._pool)

    def surroundings(self) -> launch.Surroundings:
        """Return what new machines are made in."""
        from vmctl import launch

        return launch.Surroundings(
            connection=self._connection,
            facts=self.facts,
            pool=self._pool,
            reach=self.reach,
            key=self.key,
            templates=self._templates,
        )

    def launch(
        self,
        spec: VMSpec,
        *,
        wait: bool = True,
        keep: bool = False,
        deadlines: Deadlines | None = None,
        progress: ProgressCallback | None = None,
    ) -> VM:
        """Make a machine, start it, and return when its guest is ready.

        Ready means: it runs, it has an address, it answers over SSH with the host key that vmctl
        made for it, and cloud-init reports that it did all it was told. A machine without
        cloud-init is ready when it runs.

        Args:
            spec: What is wanted.
            wait: Whether to wait for the guest.
            keep: Whether to keep a machine whose guest did not become ready, to look into it.
            deadlines: How long each phase may take.
            progress: Told of every phase.

        Raises:
            ConflictError: There is a machine of that name.
            SpecError: The spec does not fit its image, or names a file that isn't there.
            NotFoundError: An image, a volume, a network or the pool isn't there.
            ImageError: The image is not fit to be used.
            UnsupportedError: The host can't do what the spec asks for.
            ResourceError: The host is too small, or full.
            WaitTimeoutError: The guest did not become ready in time.
            ProvisioningError: cloud-init failed.
            HostKeyMismatchError: Somebody else answers on the guest's address.
            RollbackError: It failed, and not all of it could be undone.
        """
        from vmctl import launch
        from vmctl.guest.readiness import Deadlines

        made = launch.launch(
            spec,
            self.surroundings(),
            deadlines=deadlines or Deadlines(),
            progress=progress,
            wait=wait,
            keep=keep,
        )
        if made.session is not None:
            self.sessions.keep(made.domain.uuid, made.session)
        return VM(self, made.domain)

    def create(self, spec: VMSpec, *, progress: ProgressCallback | None = None) -> VM:
        """Make a machine without starting it. Raises what `launch` raises."""
        from vmctl import launch

        return VM(self, launch.create(spec, self.surroundings(), progress=progress).domain)

    def import_machine(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        *,
        name: str | None = None,
        format: str | None = None,  # noqa: A002 - the command's own word
        spec: VMSpec | None = None,
        review: Callable[[importing.Incoming], None] | None = None,
        progress: ProgressCallback | None = None,
    ) -> VM:
        """Make a machine of a disk, an OVA or a bundle, without starting it.

        A bundle becomes the same machine: its spec, MAC addresses and host key, with a UUID of its
        own. Of anything else the disks are kept, and the hardware as far as vmctl has it.

        Args:
            source: The file; for a bundle also an open file, a pipe say.
            name: The machine's name; None for the one that it had, or the file's.
            format: What the file is: ``qcow2``, ``raw``, ``vmdk``, ``vdi``, ``vhd``, ``vhdx``,
                ``ova``, ``ovf`` or ``bundle``; None: what it is found to be. A raw disk without a
                partition table must be declared.
            spec: The spec to use, instead of the one that `preview_import` shows.
            review: Told what will be made before anything is; an error that it raises ends it.
            progress: Told of every phase.

        Raises:
            ConflictError: There is a machine of that name.
            ImageError: The file is damaged, not what it claims to be, or not safe.
            ResourceError: This machine or the pool has no room.
            SpecError: There can be no such machine.
            NotFoundError: There is no such file, or the host lacks a network.
        """
        from vmctl.transfer import importing

        place = Path(source) if isinstance(source, str | os.PathLike) else source
        made = importing.import_machine(
            place,
            name=name,
            form=format,
            spec=spec,
            review=review,
            around=self.surroundings(),
            progress=progress,
        )
        return VM(self, made)

    def preview_import(
        self,
        source: str | os.PathLike[str],
        *,
        name: str | None = None,
        format: str | None = None,  # noqa: A002 - the command's own word
    ) -> importing.Incoming:
        """Say what `import_machine` would make of a file; nothing is made.

        Raises:
            ImageError: The file is damaged, not what it claims to be, or not safe.
            NotFoundError: There is no such file.
        """
        from vmctl.transfer import importing

        return importing.preview(Path(source), name=name, form=format, around=self.surroundings())

    def restore(
        self,
        target: str | os.PathLike[str],
        *,
        machine: str | None = None,
        id: str | None = None,  # noqa: A002 - the field's own word
        name: str | None = None,
        review: Callable[[importing.Incoming], None] | None = None,
        progress: ProgressCallback | None = None,
    ) -> VM:
        """Make a machine of a backup, without starting it. All of it is verified first.

        It becomes a new one, as of a bundle: its spec, MAC addresses and host key, with a UUID of
        its own. `VM.restore` takes the machine itself back. A backup that was written to a stream
        is a bundle: `import_machine` reads it.

        Args:
            target: The folder of backups.
            machine: Of which machine: its UUID, or its name at its last backup; None: the only one.
            id: Which backup; None: the newest.
            name: The new machine's name; None: the one that it had.
            review: Told what will be made before anything is; an error that it raises ends it.
            progress: Told of every phase.

        Raises:
            NotFoundError: There is no such backup, or the host lacks a network.
            ConflictError: There is a machine of that name.
            ImageError: A file of the backup, or of one that it needs, is damaged or missing.
            UnsupportedError: The host has no QEMU for such a machine.
            ResourceError: This machine or the pool has no room.
        """
        from vmctl.backing_up import restoring

        chain = restoring.open_chain(Path(target).absolute(), machine, id)
        return VM(
            self,
            restoring.restore_anew(
                chain,
                name=name,
                review=review,
                around=self.surroundings(),
                progress=progress,
            ),
        )

    def get(self, name: str) -> VM:
        """Return the machine of that name or UUID, whoever made it.

        Raises:
            NotFoundError: There is none.
        """
        return VM(self, names.find(self._connection, name))

    def list(
        self, *, details: bool = False, tenant: str | None = None
    ) -> Sequence[info.MachineSummary]:
        """Return a line for every machine on the host, sorted by name.

        It takes as many libvirt calls for 200 machines as for one. What isn't to be had so is left
        out: phase, labels, and addresses other than those that libvirt's networks gave to the MAC
        addresses that vmctl chose.

        Args:
            details: Whether to ask for those too, machine by machine.
            tenant: Only those of this tenant; empty for those of nobody. It takes the details.
        """
        from vmctl import listing

        if tenant is None:
            return listing.list_machines(self._connection, details=details)
        found = listing.list_machines(self._connection, details=True)
        return [line for line in found if line.tenant == tenant]

    def hosts_file(self, network: str | None = None) -> str:
        """Return lines for ``/etc/hosts`` with the machines of vmctl's, for this very machine.

        They have the addresses that are known without asking the guests: static ones, reserved
        ones, and leases.

        Args:
            network: The network whose guests are meant; None: all of them.

        Raises:
            NotFoundError: There is no such network.
        """
        from vmctl.networking.hosts_file import hosts_file

        return hosts_file(self._connection, network)

    def stats(
        self,
        *names: str,
        since: Sequence[MachineStats] = (),
        interval: float = 0.0,
    ) -> Sequence[MachineStats]:
        """Measure what machines use, in one libvirt call for all of them.

        Args:
            names: The machines, by name or UUID; all, sorted by name, where none is given.
            since: The measurement before, from which rates and percentages are worked out.
            interval: Seconds over which to measure rates now, instead of ``since``.

        Raises:
            NotFoundError: There is no such machine.
        """
        from vmctl.hypervisor.figures import figures_of_all
        from vmctl.stats import measure, of_names

        found = measure(lambda: figures_of_all(self._connection), since=since, interval=interval)
        return of_names(found, names)

    def events(
        self,
        *machines: str,
        kinds: Iterable[EventKind | str] = (),
        timeout: float | None = None,
        capacity: int = 1000,
    ) -> EventStream:
        """Return what happens to machines from now on, to iterate over; close it afterwards.

        A connection that is lost is opened again. Two events say so, whatever ``kinds`` are asked
        for, for what happened in between was not heard.

        Args:
            machines: Names or UUIDs of machines, which need not exist yet; none: all of them.
            kinds: The kinds of events; all, where none is given.
            timeout: Seconds after which the iteration ends; None: never.
            capacity: How many events are kept until they are taken. When more come, the oldest are
                thrown away, and an event says how many.

        Raises:
            UsageError: There is no such kind.
        """
        from vmctl.events import EventStream

        return EventStream(
            self._connection, machines, kinds=kinds, timeout=timeout, capacity=capacity
        )

    def on_event(
        self,
        callback: Callable[[Event], object],
        *machines: str,
        kinds: Iterable[EventKind | str] = (),
        capacity: int = 1000,
    ) -> EventListener:
        """Call a function for each event, in a thread of its own; close what is returned.

        Args:
            callback: The function. It may take its time, and call vmctl; an exception ends it.
            machines: As for `events`.
            kinds: As for `events`.
            capacity: As for `events`.

        Raises:
            UsageError: There is no such kind.
        """
        from vmctl.events import EventListener

        stream = self.events(*machines, kinds=kinds, capacity=capacity)
        listener = EventListener(stream, callback, self._listeners.discard)
        self._listeners.add(listener)
        listener.start()
        return listener

    def gc(self, *, dry_run: bool = False) -> Sequence[gc.Leftover]:
        """Remove what killed clients left, and nothing else.

        Args:
            dry_run: Only look.

        Returns:
            What was found.
        """
        from vmctl import gc

        return gc.collect(self._connection, dry_run=dry_run)
