"""The process of a machine's QEMU, where it runs on this machine."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["ProcessFacts", "process_of"]

_PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class ProcessFacts:
    """QEMU's process, as its kernel sees it (proc_pid_status(5)).

    Attributes:
        pid: Its number.
        user: Its effective user's number.
        seccomp: 0 for none, 1 for strict, 2 for a filter.
        no_new_privileges: Whether it can gain none by running another program.
        capabilities: What it is allowed as root is, as bits (capabilities(7)).
    """

    pid: int
    user: int
    seccomp: int
    no_new_privileges: bool
    capabilities: int


def process_of(uri: str, uuid: str) -> ProcessFacts | None:
    """Return QEMU's process of a machine; None where it can't be seen from here.

    libvirt doesn't say which it is. Its command line has the machine's UUID.

    Args:
        uri: What libvirt was opened with.
        uuid: The machine's.
    """
    parts = urlsplit(uri)
    if parts.hostname or parts.scheme.partition("+")[2] not in {"", "unix"}:
        return None
    wanted = [b"-uuid", uuid.encode()]
    for entry in _PROC.iterdir():
        # One that ended meanwhile, or that this user may not see, is none that can be judged.
        with suppress(OSError):
            if entry.name.isdecimal() and _has(entry, wanted):
                return _read(entry)
    return None


def _has(entry: Path, wanted: list[bytes]) -> bool:
    words = (entry / "cmdline").read_bytes().split(b"\0")
    return any(words[at : at + 2] == wanted for at in range(len(words)))


def _read(entry: Path) -> ProcessFacts:
    lines = (entry / "status").read_text(encoding="utf-8", errors="replace").splitlines()
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    return ProcessFacts(
        pid=int(entry.name),
        user=int(fields["Uid"][1]),
        seccomp=int(fields["Seccomp"][0]) if "Seccomp" in fields else 0,
        no_new_privileges=fields.get("NoNewPrivs") == ["1"],
        capabilities=int(fields["CapEff"][0], 16),
    )
