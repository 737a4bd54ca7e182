"""What snapshots can be called, and what their volumes are called."""

from __future__ import annotations

import re
from collections.abc import Collection

from vmctl.errors import ConflictError, UsageError
from vmctl.hypervisor.domains import Domain

__all__ = [
    "check_description",
    "check_name",
    "memory_name",
    "refuse_ambiguous",
    "refuse_number",
    "variables_name",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NUMBER = re.compile(r"[0-9]+")
# https://www.w3.org/TR/xml/#charsets, in which libvirt keeps it.
_NO_TEXT = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def check_name(name: str) -> None:
    """Say that a name can't be a snapshot's.

    Raises:
        UsageError: It is so.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name[:80]!r} can't be the name of a snapshot",
            hint="use up to 63 letters, digits, dots, dashes and underscores",
        )


def check_description(text: str) -> None:
    """Say that a text can't be kept.

    Raises:
        UsageError: It is so.
    """
    if (found := _NO_TEXT.search(text)) is not None:
        raise UsageError(
            f"the description of a snapshot can't have the character {found.group()!a}",
            hint="use plain text",
        )


def refuse_number(name: str) -> None:
    """Refuse what an internal snapshot can't be called.

    Each has an ID beside its name: 1, 2, 3 ... QEMU (7.2, ``find_snapshot_by_id_or_name``) goes
    back to the one with that ID, whatever the one is called that libvirt asks for.

    Raises:
        UsageError: It is a number.
    """
    if _NUMBER.fullmatch(name) is not None:
        raise UsageError(
            f"an internal snapshot can't be called '{name}': QEMU takes a number for that of "
            "another snapshot",
            hint=f"give it a letter: v{name}"[:120],
        )


def refuse_ambiguous(domain: Domain, name: str, others: Collection[str]) -> None:
    """Refuse to go back to an internal snapshot for which QEMU may take another one.

    Args:
        domain: The machine.
        name: The snapshot, which another program took.
        others: The machine's other internal snapshots.

    Raises:
        ConflictError: Its name is a number, and there are others.
    """
    if others and _NUMBER.fullmatch(name) is not None:
        raise ConflictError(
            f"the snapshot '{name}' of '{domain.name}' can't be told from others: QEMU takes a "
            "number for that of a snapshot, and not for its name",
            details=f"there are as well: {', '.join(others)}",
            hint="it can be gone back to, or cloned, when it is the only one: delete the others",
        )


def memory_name(domain: Domain, snapshot: str) -> str:
    """Return the name of the volume with a snapshot's memory; a renamed machine keeps it."""
    return f"{domain.uuid}.{snapshot}.memory"


def variables_name(domain: Domain, snapshot: str) -> str:
    """Return the name of the volume with UEFI's variables as a snapshot has them."""
    return f"{domain.uuid}.{snapshot}.nvram"
