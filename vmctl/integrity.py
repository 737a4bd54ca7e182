"""Whether the files under disks and snapshots are there, and images still what they were."""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import suppress
from pathlib import Path

from vmctl import bases
from vmctl.errors import NotFoundError
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.names import list_domains
from vmctl.hypervisor.pools import FILE_POOLS, Pool, list_pools, open_pool
from vmctl.hypervisor.snapshots import list_details
from vmctl.hypervisor.usage import Usage, read_usage
from vmctl.hypervisor.volumes import StoredVolume, VolumeFacts, list_volumes
from vmctl.imaging.digests import cache_folder

__all__ = ["MANY_LAYERS", "broken_images", "long_chains"]

MANY_LAYERS = 30
"""Of more layers than that a disk is slow to open, and each of them takes memory of QEMU's."""

_WINDOW = 16 << 20


def broken_images(connection: Connection) -> list[str]:
    """Return a sentence for each file that disks or snapshots need and that is missing or changed.

    A base image is read whole when this client first sees it, or sees that it takes more or less
    than it did, or that its content was written to. When its owner or its
    mode was changed says nothing: libvirt does that whenever a machine of it starts.
    """
    usage = read_usage(connection)
    found: list[str] = []
    listed = [
        (open_pool(connection, facts.name), list_volumes(connection, facts.name))
        for facts in list_pools(connection)
        if facts.state == "running" and facts.type in FILE_POOLS
    ]
    folders = tuple(f"{pool.folder}/" for pool, _volumes in listed)
    there = {volume.path for _pool, volumes in listed for volume in volumes}
    for pool, volumes in listed:
        found += _missing(pool, volumes, usage, folders, there)
        found += _changed(pool, volumes, usage)
        found += _lost(pool, volumes)
    return found


def long_chains(connection: Connection) -> list[str]:
    """Return a sentence for each disk that is made of very many files."""
    below: dict[str, str] = {}
    for facts in list_pools(connection):
        if facts.state == "running":
            below |= {entry.path: entry.backing for entry in list_volumes(connection, facts.name)}
    found = []
    for listed in list_domains(connection):
        # It may go away meanwhile.
        with suppress(NotFoundError):
            for disk in listed.domain.disks():
                count = _layers(disk.path, below)
                if count > MANY_LAYERS:
                    found.append(
                        f"the disk '{disk.target}' of '{listed.domain.name}' is made of "
                        f"{count} layers"
                    )
    return found


def _layers(path: str, below: dict[str, str]) -> int:
    seen: set[str] = set()
    while path and path not in seen:
        seen.add(path)
        path = below.get(path, "")
    return len(seen)


def _lost(pool: Pool, volumes: list[VolumeFacts]) -> list[str]:
    """Return a sentence for each file of a snapshot that the pool has not any more."""
    there = {volume.path for volume in volumes}
    found = []
    for listed in list_domains(pool.connection):
        # It may go away meanwhile.
        with suppress(NotFoundError):
            for snapshot in list_details(listed.domain):
                found += [
                    f"the file {path} of the snapshot '{snapshot.facts.name}' of the machine "
                    f"'{listed.domain.name}' is missing; it can't be gone back to"
                    for path in snapshot.held
                    if path.startswith(f"{pool.folder}/") and path not in there
                ]
    return found


def _missing(
    pool: Pool,
    volumes: list[VolumeFacts],
    usage: Usage,
    folders: tuple[str, ...],
    there: set[str],
) -> list[str]:
    found = []
    for volume in volumes:
        # Of a file outside of all pools nothing can be said from here.
        if volume.backing.startswith(folders) and volume.backing not in there:
            users = usage.users(pool.name, volume.name, volume.path)
            found.append(
                f"the image '{Path(volume.backing).name}' under the volume "
                f"'{pool.name}/{volume.name}' is missing"
                + (f"; {', '.join(map(str, users))} can't run without it" if users else "")
            )
    return found


def _changed(pool: Pool, volumes: list[VolumeFacts], usage: Usage) -> list[str]:
    cache = cache_folder() / "verified-images.json"
    known: dict[str, list[int | str]] = {}
    with suppress(OSError, ValueError):
        known = dict(json.loads(cache.read_text(encoding="utf-8")))
    found = []
    for volume in volumes:
        if not bases.is_base(volume.name) or not bases.is_complete(pool, volume.name):
            continue
        key = f"{pool.connection.uri} {volume.path}"
        handle = StoredVolume.of(pool, volume.name)
        # Before it is read: what is written meanwhile is read the next time.
        stamp = handle.stamp()
        seen: list[int | str] = [stamp.allocation, stamp.written]
        if known.get(key) == seen:
            continue
        if _digest(handle) == bases.digest_of(volume.name):
            known[key] = seen
            continue
        users = usage.users(pool.name, volume.name, volume.path)
        found.append(
            f"the image '{volume.name}' has changed"
            + (f"; disks of these lie on it: {', '.join(map(str, users))}" if users else "")
        )
    _save(cache, known)
    return found


def _digest(volume: StoredVolume) -> str:
    sha256, offset = hashlib.sha256(), 0
    while piece := volume.read(start=offset, length=_WINDOW):
        sha256.update(piece)
        offset += len(piece)
        if len(piece) < _WINDOW:
            break
    return sha256.hexdigest()


def _save(cache: Path, known: dict[str, list[int | str]]) -> None:
    # It is only a cache: where it can't be written, the images are read again.
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=cache.parent, delete=False, encoding="utf-8"
        ) as temporary:
            json.dump(known, temporary)
        Path(temporary.name).replace(cache)
