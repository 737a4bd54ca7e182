"""Which volumes are vmctl's own small ones, that nobody puts a disk on."""

from __future__ import annotations

import re

from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.metadata import Role
from vmctl.hypervisor.names import list_domains

__all__ = ["Housekeeping"]

# NAME.vmctl-image, NAME.vmctl-uploading, NAME.vmctl-removing
_NOTE = re.compile(r".+\.vmctl-[a-z]+")
_ROLES = frozenset({Role.SEED, Role.CONSOLE_LOG})
# virtlogd keeps a long log's older parts beside it, as NAME.0, NAME.1 ...
_PART = re.compile(r"\.[0-9]+$")


class Housekeeping:
    """What belongs to vmctl's own bookkeeping on a host, as it is now.

    That is what it notes of images and of work in progress, and the seeds and console logs that
    records of machines list.
    """

    def __init__(self, connection: Connection) -> None:
        self._listed = {
            (volume.pool, volume.name)
            for listed in list_domains(connection)
            if listed.record is not None
            for volume in listed.record.volumes
            if volume.role in _ROLES
        }

    def has(self, pool: str, volume: str) -> bool:
        """Return whether a volume is of the bookkeeping, and none of the user's."""
        listed = (pool, volume) in self._listed or (pool, _PART.sub("", volume)) in self._listed
        return listed or _NOTE.fullmatch(volume) is not None
