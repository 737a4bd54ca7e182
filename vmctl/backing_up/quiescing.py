"""A guest's file systems, frozen by its agent for the moment that a backup is of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from vmctl.agent import GuestAgent
from vmctl.backing_up.manifest import Consistency
from vmctl.errors import GuestError, GuestUnreachableError, VmctlError
from vmctl.hypervisor.domains import Domain
from vmctl.hypervisor.metadata import Record

__all__ = ["quiesced"]


@contextmanager
def quiesced(
    domain: Domain, record: Record, wanted: bool | None
) -> Iterator[tuple[Consistency, str]]:
    """Have a running guest's file systems frozen in the block, if that is wanted and can be.

    Args:
        domain: The machine.
        record: What vmctl knows of it.
        wanted: True, or it fails; False: no; None: if there is an agent that can.

    Yields:
        What state they are in, and why they were not frozen, where that was tried.

    Raises:
        GuestError: They shall be, and can't be; or they may be frozen still.
        WrongStateError: The guest stands still.
    """
    if wanted is False:
        yield Consistency.CRASH_CONSISTENT, ""
        return
    with ExitStack() as stack:
        why = ""
        try:
            stack.enter_context(_frozen(domain, record))
        except VmctlError as error:
            if wanted:
                raise
            why = f"its file systems were not frozen: {error.brief}"
        yield (Consistency.CRASH_CONSISTENT if why else Consistency.QUIESCED), why


@contextmanager
def _frozen(domain: Domain, record: Record) -> Iterator[None]:
    if "org.qemu.guest_agent" not in domain.xml():
        raise GuestUnreachableError(
            f"'{domain.name}' has no agent",
            hint="give it one, `agent: true`, or make the backup without: `--no-quiesce`",
        )
    agent = GuestAgent(domain, record=lambda: record)
    agent.ping()
    with agent.frozen() as count:
        if not count:
            raise GuestError(
                f"the agent of '{domain.name}' froze no file system",
                hint="its log in the guest may say why; or go without: `--no-quiesce`",
            )
        yield
