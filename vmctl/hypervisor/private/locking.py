"""One at a time starts, stops or removes a private host.

The lock is a file that is there only while somebody holds it or waits for it, so that stopping the
last host leaves nothing. That makes taking it a loop: a file, or its folder, that was removed
between two calls is made again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from vmctl.errors import (
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    UsageError,
    VmctlError,
)
from vmctl.hypervisor.private.layout import DEFAULT_HOME_OF_ROOT, Layout

__all__ = ["lock"]

# Far more than there are others to race with. What fails so often is a folder that can't be.
_MOST_TRIES = 1000


@contextlib.contextmanager
def lock(layout: Layout, *, only_try: bool = False) -> Iterator[None]:
    """Keep everybody else from starting, stopping or removing this host.

    Args:
        layout: The host.
        only_try: Whether to give up when somebody holds it. The folder isn't made then either;
            this is for who only wants to remove a host.

    Raises:
        ConflictError: Somebody holds it, and this was only to be tried.
        NotFoundError: There is no folder for it, and this was only to be tried.
        PermissionDeniedError: The folder can't be written.
        UsageError: It can't be made.
    """
    descriptor = _open_lock(layout, only_try=only_try)
    try:
        yield
    finally:
        # Removed while it is held, so that nothing stays. Whoever waits for it finds out that
        # it is no longer the file of that name, and tries again.
        with contextlib.suppress(OSError):
            layout.lock_file.unlink()
        os.close(descriptor)
        # And the folders that were made for it, unless there is something else in them.
        with contextlib.suppress(OSError):
            layout.lock_file.parent.rmdir()
            if layout.lock_file.parent.parent == DEFAULT_HOME_OF_ROOT:
                DEFAULT_HOME_OF_ROOT.rmdir()


def _open_lock(layout: Layout, *, only_try: bool) -> int:
    for _ in range(_MOST_TRIES):
        descriptor = _open_file(layout, make_folder=not only_try)
        if descriptor is None:
            if only_try:
                raise NotFoundError(
                    f"there is no private host {layout.name}", hint="`vmctl host list` shows them"
                )
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if only_try else 0))
            held = os.fstat(descriptor)
            named = layout.lock_file.stat()
            if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            raise ConflictError(
                f"somebody else is starting or stopping private host {layout.name}",
                hint="wait until that has ended, and try again",
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise _unusable(layout, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))


def _open_file(layout: Layout, *, make_folder: bool) -> int | None:
    """Open the lock's file; None when its folder isn't there, or not any more."""
    folder = layout.lock_file.parent
    try:
        if make_folder and not folder.is_dir():
            folder.mkdir(mode=0o755, parents=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(layout.lock_file, flags, 0o600)
    except (FileExistsError, FileNotFoundError):
        return None  # somebody else made the folder just now, or removed it
    except OSError as error:
        raise _unusable(layout, error) from error


def _unusable(layout: Layout, error: OSError) -> VmctlError:
    folder = layout.lock_file.parent
    hint = "set VMCTL_STATE_HOME to a folder of yours"
    if isinstance(error, PermissionError):
        return PermissionDeniedError(f"no permission to write to {folder}", hint=hint)
    return UsageError(f"{folder} can't be used: {error.strerror}", hint=hint)
