"""Looking after a machine while somebody waits for its guest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import paramiko

from vmctl.errors import GuestUnreachableError, HostUnavailableError, NotFoundError
from vmctl.hypervisor.domains import Domain

__all__ = ["ended_with"]

# When nothing is heard, for what is not told: while libvirtd restarts, say.
_RECHECK_SECONDS = 5.0
_DAYS = 365 * 86400.0


@contextmanager
def ended_with(domain: Domain, channel: paramiko.Channel) -> Iterator[None]:
    """Close the channel when the machine stops: a guest that is ended closes none itself.

    Raises:
        NotFoundError: The block failed to reach the guest because the machine is gone.
    """
    done = threading.Event()
    with domain.connection.events.listening(domain.uuid) as signal:

        def check() -> bool | None:
            if done.is_set():
                return True
            try:
                stopped = not domain.is_active()
            except NotFoundError:
                stopped = True
            except HostUnavailableError:
                return None
            if stopped:
                channel.close()
            return stopped or None

        def watch() -> None:
            signal.wait_for(check, deadline=time.monotonic() + _DAYS, recheck=_RECHECK_SECONDS)

        watcher = threading.Thread(target=watch, name="vmctl-watch", daemon=True)
        watcher.start()
        try:
            yield
        except GuestUnreachableError as error:
            if not domain.exists():
                raise NotFoundError(
                    f"the machine '{domain.name}' was removed meanwhile",
                    details=error.brief,
                    hint="`vmctl list` shows what there is",
                ) from error
            raise
        finally:
            done.set()
            signal.notify()
            watcher.join()
