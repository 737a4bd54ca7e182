"""A guest's memory in a file on the client: written on the host, brought here, removed there."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmctl import streaming
from vmctl.errors import (
    ResourceError,
    RollbackError,
    UnsupportedError,
    UsageError,
    VmctlError,
    WrongStateError,
)
from vmctl.hypervisor import dumps, pools, uploads
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import outlasting
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.pools import open_pool
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.progress import Reporter, being_undone
from vmctl.render.volume import render_volume

__all__ = ["dump"]

# Longer than any dump takes to come here.
_CLAIM_SECONDS = 86400.0
# The screen's memory, and the file's own tables.
_BESIDE_MEMORY = 64 << 20


def dump(
    domain: Domain,
    path: Path,
    *,
    form: str,
    pool: str,
    replace: bool,
    reporter: Reporter,
) -> int:
    """Write a guest's memory into a file on the client; see `VM.dump`.

    Args:
        domain: The machine.
        path: The file.
        form: What it shall be.
        pool: The pool that it lies in on its way.
        replace: Whether a file that is there is replaced.
        reporter: Told of the phases ``dump`` and ``download``.

    Returns:
        The file's size in bytes.
    """
    if form not in dumps.FORMATS:
        raise UsageError(
            f"there is no dump as {form[:40]!r}", hint=f"one of: {', '.join(dumps.FORMATS)}"
        )
    if not domain.is_active():
        state = domain.state()
        raise WrongStateError(
            f"'{domain.name}' is {state.value}: it has no memory to dump",
            state=state.value,
            hint=f"start it: `vmctl start {domain.name}`",
        )
    streaming.refuse_target(path, replace=replace)
    found = open_pool(domain.connection, pool)
    _refuse_pool(domain, found.name, path, form)
    volume = StoredVolume(
        domain.connection, found.name, f"{domain.uuid}.{secrets.token_hex(4)}.dump"
    )
    with _passing(volume):
        with reporter.phase("dump") as phase:
            phase.update("writing the guest's memory")

            def tell(fraction: float) -> None:
                phase.update("writing the guest's memory", fraction)

            dumps.dump_memory(domain, volume, form, tell=tell)
        with reporter.phase("download") as phase:
            return streaming.download(volume, path, replace=replace, phase=phase)


def _refuse_pool(domain: Domain, pool: str, path: Path, form: str) -> None:
    facts = pools.facts_of(domain.connection, pool)
    if facts.type not in pools.FILE_POOLS:
        raise UnsupportedError(
            f"the pool '{pool}' has no files, and a dump is one on its way here",
            hint="name a pool of files: `vmctl pool list`",
        )
    if form != "elf":
        # How far it shrinks is seen when it is written.
        return
    needed = dumps.memory_of(domain) + _BESIDE_MEMORY
    free = shutil.disk_usage(path.parent).free
    for where, available in ((f"the pool '{pool}'", facts.available), (str(path.parent), free)):
        if available < needed:
            raise ResourceError(
                f"{where} has no room for the memory of '{domain.name}': "
                f"it takes {needed} bytes, and {available} are free",
                hint="remove what is not needed, use another place, or a kdump format",
            )


@contextmanager
def _passing(volume: StoredVolume) -> Iterator[None]:
    """Make an empty volume, recorded before it exists, that is gone after the block."""
    with claimed(_CLAIM_SECONDS) as claim:
        uploads.mark(volume, claim, kind=uploads.DUMPING)
        try:
            volume.create(render_volume(volume.name, capacity=1, format="raw"))
            yield
        except BaseException as error:
            with being_undone():
                _remove(volume, error)
            raise
        _remove(volume, None)


def _remove(volume: StoredVolume, cause: BaseException | None) -> None:
    try:
        outlasting(volume.delete)
        outlasting(lambda: uploads.unmark(volume, kind=uploads.DUMPING))
    except VmctlError as failure:
        because = "" if cause is None else f"it failed because: {cause}\n"
        raise RollbackError(
            f"the dump could not be removed from the pool '{volume.pool}'",
            left=(f"the volume '{volume.name}' in the pool '{volume.pool}'",),
            details=f"{because}the removal failed because: {failure}",
            hint="mend the cause and run `vmctl gc`",
        ) from cause
