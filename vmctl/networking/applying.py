"""Making a network what a spec says: entry by entry while it runs, and by its definition.

The definition, which has the record in it, is what decides: until it is there, whatever was changed
in the running network is taken back on failure. A client that is killed before leaves a network
that runs with more than is recorded; whoever applies the spec again finds it there, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from lxml import etree

from vmctl.errors import ConflictError, RollbackError, VmctlError
from vmctl.hypervisor import network_changing as backend
from vmctl.hypervisor import networks
from vmctl.hypervisor.connection import Connection, outlasting
from vmctl.hypervisor.kept_meanwhile import carry_over
from vmctl.networking.comparing import (
    RECORDED_ONLY,
    NetworkDifference,
    NetworkPlan,
    NetworkWhen,
    recorded,
)
from vmctl.progress import being_undone
from vmctl.render.network import render_network
from vmctl.render.network_parts import parts_of, served_entry
from vmctl.render.network_record import with_record
from vmctl.render.patching import patch
from vmctl.spec.network import NetworkSpec

__all__ = ["apply_plan", "refuse_anew", "refuse_restart"]


def refuse_anew(plan: NetworkPlan) -> None:
    """Refuse what only a new network could have.

    Raises:
        ConflictError: There is such a difference.
    """
    anew = plan.those(NetworkWhen.ANEW)
    if anew:
        raise ConflictError(
            f"the network '{plan.name}' would have to be made anew for "
            + ", ".join(entry.path for entry in anew),
            details="\n".join(f"{entry.path}: {entry.why}" for entry in anew),
            hint="nothing was changed; delete these machines first, or move their NICs to another "
            "network",
        )


def refuse_restart(connection: Connection, name: str) -> None:
    """Refuse to restart a network that running guests are plugged into.

    Raises:
        ConflictError: There are some.
    """
    running = networks.plugged_in(connection, name)
    if running:
        raise ConflictError(
            f"the network '{name}' can't be restarted: it has running guests",
            details=", ".join(running),
            hint="nothing was changed; stop them first, or cut them off with --force",
        )


def apply_plan(
    connection: Connection, plan: NetworkPlan, wanted: NetworkSpec, *, restart: bool
) -> None:
    """Make all differences of a plan.

    Args:
        connection: The host.
        plan: What differs.
        wanted: The spec, with its subnets chosen.
        restart: Whether the network is restarted for what needs it.

    Raises:
        HypervisorError: libvirt refuses something; the network is as it was.
        RollbackError: That, and it could not be made as it was.
    """
    before = backend.definitions(connection, wanted.name)
    undo: list[tuple[str, Callable[[], None]]] = []
    try:
        if before.running is not None:
            for entry in plan.those(NetworkWhen.LIVE):
                _change_entry(connection, wanted, entry, undo)
        if plan.differences:
            _define(connection, wanted, undo)
        if before.autostart != wanted.autostart and _has(plan, "autostart"):
            backend.set_autostart(connection, wanted.name, on=wanted.autostart)
            undo.append(("its autostart", _autostart(connection, before, wanted.name)))
        if restart:
            # The last to be undone, when its definition is back.
            undo.insert(0, ("the running", _running_again(connection, before, wanted.name)))
            backend.restart(connection, wanted.name)
    except BaseException as error:
        with being_undone():
            _undo(wanted.name, undo, error)
        raise


def _has(plan: NetworkPlan, path: str) -> bool:
    return any(entry.path == path for entry in plan.differences)


def _change_entry(
    connection: Connection,
    wanted: NetworkSpec,
    entry: NetworkDifference,
    undo: list[tuple[str, Callable[[], None]]],
) -> None:
    """Give the running network an entry, unless it has it: somebody may have begun with it."""
    if entry.path in RECORDED_ONLY:
        return
    running = backend.definitions(connection, wanted.name).running or ""
    now = parts_of(running).get(entry.path, "")
    if now == entry.after:
        return
    old = served_entry(running, entry.path)
    new = served_entry(render_network(wanted), entry.path)

    def put(gone: etree._Element | None, come: etree._Element | None) -> None:
        # One that is off has no other entries than its definition.
        if networks.is_active(connection, wanted.name):
            backend.replace_entry(connection, wanted.name, entry.path, gone, come)

    put(old, new)
    undo.append((entry.path, lambda: put(new, old)))


def _define(
    connection: Connection, wanted: NetworkSpec, undo: list[tuple[str, Callable[[], None]]]
) -> None:
    """Carry the differences over to the definition as it is now, others' changes included."""
    running = backend.definitions(connection, wanted.name).running
    found = backend.definitions(connection, wanted.name)
    old = render_network(recorded(found, wanted.name))
    new = render_network(wanted)
    data = wanted.model_dump(mode="json", exclude_unset=True)
    xml = with_record(patch(found.next, old, new), data)
    backend.define(connection, wanted.name, xml)
    undo.append(
        ("its definition", lambda: backend.define(connection, wanted.name, found.next)),
    )
    if running is not None:
        # A machine that was made in the same moment has its address in what is running.
        carry_over(connection, wanted.name, running)


def _autostart(
    connection: Connection, before: backend.Definitions, name: str
) -> Callable[[], None]:
    return lambda: backend.set_autostart(connection, name, on=before.autostart)


def _running_again(
    connection: Connection, before: backend.Definitions, name: str
) -> Callable[[], None]:
    """Return what starts a network that ran."""

    def run() -> None:
        if before.running is not None and not networks.is_active(connection, name):
            backend.restart(connection, name)

    return run


def _undo(name: str, undo: list[tuple[str, Callable[[], None]]], error: BaseException) -> None:
    left: list[str] = []
    said: list[str] = []
    for what, back in reversed(undo):
        try:
            outlasting(back)
        except VmctlError as failure:
            left.append(f"{what} of the network '{name}'")
            said.append(str(failure))
    if left:
        raise RollbackError(
            f"the network '{name}' could not be changed, and not all of it could be undone",
            left=left,
            details=f"it failed because: {error}\nthe undoing failed because: " + "\n".join(said),
            hint="mend the cause, and apply the spec that it had",
        ) from error
