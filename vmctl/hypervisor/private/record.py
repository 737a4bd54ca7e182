"""What is written down about a private host, in its ``host.json``.

It is written before anything else is made, so that whatever a crash leaves can be found from it,
and again when the host is ready. A record without ``ready`` is of a start that did not end.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from vmctl.hypervisor.private.layout import Kind, Network
from vmctl.hypervisor.private.process import ProcessIdentity

__all__ = ["NEW", "Record"]

NEW = ".new"
"""How a record's file ends while it is being written."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One host, as it was started.

    Attributes:
        id: A UUID of this host; one of the same name that is started later has another. It is
            its libvirt's host UUID as well.
        kind: ``system`` when root started it, else ``session``.
        network: ``own`` when it has a network namespace, else ``host``.
        short_dir: A folder with a short path that leads to ``run/``, for a session's sockets.
        supervisor: The process outside of its namespaces that ends and removes it.
        init: The first process inside, with which all others end.
        ready: Whether the start was completed.
        warnings: What it lacks.
    """

    id: str
    kind: Kind
    network: Network
    short_dir: str | None = None
    supervisor: ProcessIdentity | None = None
    init: ProcessIdentity | None = None
    ready: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def running(self) -> bool:
        """Whether its first process runs."""
        return self.init is not None and self.init.alive

    def write(self, path: Path) -> None:
        """Write it to ``path``, whole or not at all."""
        temporary = path.with_suffix(NEW)
        with temporary.open("w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)
            json.dump(dataclasses.asdict(self), file, indent=1)
            file.flush()
            # Or a power failure may leave an empty file of this name.
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the same call, named as what it does

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """Return the record at ``path``; None when there is none, or none that can be read."""
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            for key in ("supervisor", "init"):
                if data[key] is not None:
                    data[key] = ProcessIdentity(**_known(ProcessIdentity, data[key]))
            data["warnings"] = tuple(data["warnings"])
            return cls(**_known(cls, data))
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _known(kind: type[Record | ProcessIdentity], data: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a newer vmctl may have written besides."""
    names = {field.name for field in dataclasses.fields(kind)}
    return {key: value for key, value in data.items() if key in names}
