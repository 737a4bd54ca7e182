"""Another name for a machine. Its UUID, and all that goes by it, stay."""

from __future__ import annotations

from typing import Any

from lxml import etree
from pydantic import TypeAdapter, ValidationError

from vmctl import power
from vmctl.errors import ConflictError, UnsupportedError, UsageError, WrongStateError
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Record, Role
from vmctl.hypervisor.power import rename as rename_domain
from vmctl.hypervisor.snapshots import EXTERNAL, list_snapshots
from vmctl.progress import being_undone
from vmctl.spec.names import MachineName, hostname_of

__all__ = ["refuse_bad_name", "rename"]


def rename(domain: Domain, record: Record, name: str) -> Domain:
    """Rename a machine that is off, within `vmctl.changes.changing`; see `VM.rename`."""
    if domain.name != name:
        _refuse_impossible(domain, record)
        renamed = rename_domain(domain, name)
    else:
        # It has the name; a client that was killed may not have come to record that.
        renamed = domain
    spec = _with_name(record.spec, name)
    if spec != record.spec:
        try:
            renamed.update_record(spec=spec)
        except BaseException:
            if renamed is not domain:
                with being_undone():
                    outlasting(lambda: rename_domain(renamed, domain.name))
            raise
    return renamed


def _with_name(spec: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a recorded spec with another name, and the guest's host name as it is."""
    old = spec.get("name")
    changed = {**spec, "name": name}
    cloud_init = spec.get("cloud_init")
    if isinstance(old, str) and cloud_init is not None and not cloud_init.get("hostname"):
        changed["cloud_init"] = {**cloud_init, "hostname": hostname_of(old)}
    return changed


def refuse_bad_name(name: str) -> None:
    """Refuse what can't be a machine's name.

    Raises:
        UsageError: It can't.
    """
    try:
        TypeAdapter(MachineName).validate_python(name)
    except ValidationError as error:
        raise UsageError(
            f"{name[:80]!r} can't be a machine's name",
            hint="use 1 to 63 letters, digits, '.', '_' and '-', the first a letter or a digit",
        ) from error


def _refuse_impossible(domain: Domain, record: Record) -> None:
    state = domain.state()
    if domain.is_active():
        raise WrongStateError(
            f"'{domain.name}' is {state.value}: only a machine that is off can be renamed",
            state=state.value,
            hint=f"stop it first: `vmctl stop {domain.name}`",
        )
    power.refuse_saved(domain, "renamed")
    _refuse_snapshots(domain)
    in_libvirts_folder = record.volume(Role.NVRAM) is None
    nvram = etree.fromstring(domain.xml(inactive=True)).find("os/nvram")
    if in_libvirts_folder and nvram is not None:
        # libvirt names that file once, after the machine, and never moves it. The next machine of
        # the old name would be given the same one.
        raise UnsupportedError(
            f"'{domain.name}' has UEFI, whose variables lie in a file that is named after it",
            hint="export it and import it under the new name",
        )


def _refuse_snapshots(domain: Domain) -> None:
    """Refuse what a snapshot holds the old name in, where libvirt restores under no other."""
    for entry in list_snapshots(domain):
        if entry.memory and entry.kind == EXTERNAL:
            raise ConflictError(
                f"'{domain.name}' can't be renamed: its snapshot '{entry.name}' could not be gone "
                "back to any more",
                hint="delete it first; internal snapshots, and those without memory, don't mind",
            )
