"""What a machine has otherwise than vmctl made it, and what waits for its next start."""

from __future__ import annotations

from dataclasses import dataclass

from vmctl.intent.observing import observe
from vmctl.intent.rendering import rendered
from vmctl.render.facts import HostFacts
from vmctl.render.templates import Templates
from vmctl.spec import VMSpec

__all__ = ["Deviation", "drift_of", "pending_in"]

# virtio-mem gives memory in blocks of so much.
_BLOCK_KIB = 2048
# What libvirt adds to a definition by itself is no drift; these it never adds.
_NEVER_ADDED = ("disks.", "nics.", "graphics.", "hostdevs.", "shares.", "sound.")


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """A value that is otherwise in one place than in another.

    Attributes:
        path: What it is the value of, in a spec's words where a spec has it.
        expected: What it should be; empty where there should be nothing.
        actual: What it is; empty where there is nothing.
    """

    path: str
    expected: str
    actual: str


def drift_of(
    recorded: VMSpec,
    definition: str,
    *,
    facts: HostFacts,
    uuid: str,
    templates: Templates | None,
    overlaid: frozenset[str] = frozenset(),
) -> list[Deviation]:
    """Return what somebody else changed in a machine's definition.

    Args:
        recorded: The machine's spec, as vmctl recorded it.
        definition: Its XML for the next start.
        facts: What the host can do.
        uuid: The machine's UUID.
        templates: Where its XML was rendered from.
        overlaid: The targets of disks that go on in qcow2 files, whatever they are made of.
    """
    expected = observe(rendered(recorded, facts=facts, uuid=uuid, templates=templates))
    expected |= {f"disks.{target}.format": "qcow2" for target in overlaid & _targets(expected)}
    return _deviations(expected, observe(definition))


def _targets(seen: dict[str, str]) -> frozenset[str]:
    words = (path.split(".") for path in seen)
    return frozenset(word[1] for word in words if word[0] == "disks" and word[-1] == "format")


def pending_in(definition: str, running: str) -> list[Deviation]:
    """Return what the next start changes: the running value is the actual one.

    Args:
        definition: The machine's XML for the next start.
        running: Its XML as it runs.
    """
    return [
        entry
        for entry in _deviations(observe(definition), observe(running, running=True))
        if not (entry.path == "memory" and _is_rounded(entry))
    ]


def _is_rounded(entry: Deviation) -> bool:
    """Return whether a running machine has a memory size as nearly as it can be plugged in."""
    sizes = [int(text.removesuffix("KiB") or 0) for text in (entry.expected, entry.actual)]
    return abs(sizes[0] - sizes[1]) < _BLOCK_KIB


def _deviations(expected: dict[str, str], actual: dict[str, str]) -> list[Deviation]:
    found = [
        Deviation(path=path, expected=value, actual=actual.get(path, ""))
        for path, value in expected.items()
        if actual.get(path, "").lower() != value.lower()
    ]
    found += [
        Deviation(path=path, expected="", actual=value)
        for path, value in actual.items()
        if path not in expected and path.startswith(_NEVER_ADDED)
    ]
    # Of a device that is gone, or that came, its fields need not be said one by one.
    whole = {entry.path for entry in found if "" in {entry.expected, entry.actual}}
    return [entry for entry in found if entry.path.rpartition(".")[0] not in whole]
