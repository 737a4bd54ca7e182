"""Files in a guest, by SFTP over a channel; what goes wrong is said in vmctl's errors."""

from __future__ import annotations

import errno
import re
import secrets
import shlex
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import paramiko

from vmctl.errors import (
    ConflictError,
    GuestError,
    GuestUnreachableError,
    NotFoundError,
    ResourceError,
    UnsupportedError,
    VmctlError,
    WaitTimeoutError,
)
from vmctl.guest.conversation import HINT_LOST
from vmctl.guest.ssh import run_in

__all__ = ["Facts", "Remote", "is_full", "opened", "part_name"]

# A guest that says nothing for so long hangs.
_SILENT_SECONDS = 60.0
_BLOCK = 32768
# Requests for so many blocks are under way at once.
_WINDOW = 64
# Files of /proc say that they are empty; more than this none of them holds.
_MOST_OF_UNSIZED = 16 << 20
_PART = re.compile(r"\.(.+)\.vmctl-[0-9a-f]{12}", re.DOTALL)
_PART_MODE = 0o600
# Of a file's name in that of its part, which must not be too long.
_MOST_OF_NAME = 100
# Whoever has written nothing to a part for so long was killed.
_LEFT_SECONDS = 3600


@dataclass(frozen=True)
class Facts:
    """What the guest says of a file: its kind and mode, its size, and when it was changed."""

    mode: int
    size: int
    mtime: int

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)


@contextmanager
def opened(channel: paramiko.Channel, machine: str) -> Iterator[Remote]:
    """Speak SFTP over a new channel, which is closed at the end.

    Raises:
        UnsupportedError: The guest has no SFTP.
    """
    try:
        channel.settimeout(_SILENT_SECONDS)
        try:
            channel.invoke_subsystem("sftp")
            client = paramiko.SFTPClient(channel)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise UnsupportedError(
                f"the SSH server of '{machine}' has no SFTP",
                details=str(error),
                hint="install it there (openssh-sftp-server), or copy files one by one with the "
                "agent: --via agent",
            ) from error
        yield Remote(client, channel, machine)
    finally:
        channel.close()


class Remote:
    """The guest's files. What it says of them is its own word, and is checked where it counts."""

    def __init__(
        self, client: paramiko.SFTPClient, channel: paramiko.Channel, machine: str
    ) -> None:
        self._client = client
        self._channel = channel
        self.machine = machine

    @contextmanager
    def _calling(self, doing: str, path: str) -> Iterator[None]:
        try:
            yield
        except VmctlError:
            raise
        except TimeoutError as error:
            raise WaitTimeoutError(
                f"'{self.machine}' says nothing any more: could not {doing} {path}",
                phase="copy",
                hint="is it paused, or its disk hanging? `vmctl info`, `vmctl logs`",
            ) from error
        except UnicodeError as error:
            raise GuestError(
                f"a name is not UTF-8: could not {doing} {path!r} in '{self.machine}'",
                details=str(error),
                hint="rename it, or make an archive and copy that",
            ) from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise self._refusal(error, doing, path) from error

    def _refusal(self, error: Exception, doing: str, path: str) -> VmctlError:
        number = getattr(error, "errno", None)
        if number == errno.ENOENT:
            return NotFoundError(
                f"there is no {path} in '{self.machine}'",
                hint=f"see what is there: `vmctl exec {self.machine} -- ls -la`",
            )
        if number == errno.EACCES:
            return GuestError(
                f"could not {doing} {path} in '{self.machine}': its user may not",
                hint="copy to where that user may write, and move it there with sudo: `vmctl exec`",
            )
        if self._channel.closed:
            return GuestUnreachableError(
                f"the SSH connection to '{self.machine}' broke", details=str(error), hint=HINT_LOST
            )
        return GuestError(
            f"could not {doing} {path} in '{self.machine}'",
            details=str(error),
            hint=f"see what is there: `vmctl exec {self.machine} -- ls -la`",
        )

    def stat(self, path: str, *, follow: bool = True) -> Facts | None:
        """Return what there is; None when there is nothing."""
        try:
            with self._calling("look at", path):
                found = (self._client.stat if follow else self._client.lstat)(path)
        except NotFoundError:
            return None
        return _facts(found)

    def resolved(self, path: str) -> str:
        """Return the path without symbolic links."""
        with self._calling("look at", path):
            return self._client.normalize(path)

    def listing(self, path: str) -> list[tuple[str, Facts]]:
        """Return what is in a folder, by name, sorted.

        Raises:
            GuestError: The guest gives a name that can't be one in a folder.
        """
        with self._calling("list", path):
            entries = self._client.listdir_attr(path)
        seen: set[str] = set()
        for entry in entries:
            name = entry.filename
            impossible = not name or "/" in name or "\0" in name or name in seen
            seen.add(name)
            if impossible:
                raise GuestError(
                    f"'{self.machine}' says that {path} has a file named {name!r}",
                    hint="no such file can be: don't trust this guest",
                )
        return sorted((entry.filename, _facts(entry)) for entry in entries)

    def link_target(self, path: str) -> str:
        """Return where a symbolic link points to."""
        with self._calling("read the link", path):
            return self._client.readlink(path) or ""

    def make_folder(self, path: str) -> bool:
        """Make a folder, where there is none; returns whether there was none."""
        found = self.stat(path)
        if found is None:
            with self._calling("make the folder", path):
                self._client.mkdir(path, 0o700)
        elif not found.is_folder:
            raise ConflictError(
                f"{path} in '{self.machine}' is no folder",
                hint="remove it there, or copy to another place",
            )
        return found is None

    def set_times_and_mode(self, path: str, *, mode: int, mtime: int) -> None:
        """Set both of a folder."""
        with self._calling("set the mode of", path):
            self._client.chmod(path, stat.S_IMODE(mode))
            self._client.utime(path, (mtime, mtime))

    def sweep(self, folder: str, names: Collection[str]) -> None:
        """Remove what copies of such files have left in a folder whose clients were killed.

        Call it when a file has just come to be there: then the folder has the guest's own time.
        """
        wanted = {name[:_MOST_OF_NAME] for name in names}
        # This copy is whole, whatever the guest says to that.
        with suppress(VmctlError):
            here = self.stat(folder)
            for name, facts in () if here is None else self.listing(folder):
                part = _PART.fullmatch(name)
                # One that is being finished has its own mode before it has its own time.
                unfinished = facts.is_file and stat.S_IMODE(facts.mode) == _PART_MODE
                long_ago = here is not None and facts.mtime < here.mtime - _LEFT_SECONDS
                if part is not None and part[1] in wanted and unfinished and long_ago:
                    with self._calling("remove", name):
                        self._client.remove(f"{folder}/{name}")

    def put_link(self, path: str, points_to: str) -> None:
        """Make a symbolic link, in place of a file or link that is there."""
        part = part_name(path)
        with self._calling("make the link", path):
            self._client.symlink(points_to, part)
            try:
                self._client.posix_rename(part, path)
            except BaseException:
                with suppress(OSError, EOFError, paramiko.SSHException):
                    self._client.remove(part)
                raise

    def put(self, path: str, pieces: Iterable[bytes], *, mode: int, mtime: int | None) -> None:
        """Write a file, which appears when it is whole; blocks of zeros become holes.

        Raises:
            ResourceError: The guest's disk is full.
            GuestError: It can't be written.
        """
        part = part_name(path)
        with self._calling("write", path):
            file = self._client.open(part, "wx")
        try:
            with self._calling("write", path):
                self._fill(file, pieces)
                file.chmod(stat.S_IMODE(mode))
                if mtime is not None:
                    file.utime((mtime, mtime))
                file.close()
                self._client.posix_rename(part, path)
        except BaseException as error:
            self._discard(file, part, path, error)
            raise

    @staticmethod
    def _fill(file: paramiko.SFTPFile, pieces: Iterable[bytes]) -> None:
        # What is in it is nobody's business before it has its own mode.
        file.chmod(_PART_MODE)
        file.set_pipelined(True)
        offset, held = 0, (0, b"")
        for piece in pieces:
            if piece.count(0) != len(piece):
                _write_at(file, *held)
                held = (offset, piece)
            offset += len(piece)
        # One that is waited for waits for those before it, and for what the guest says of them.
        file.set_pipelined(False)
        _write_at(file, *held)
        file.truncate(offset)

    def _discard(self, file: paramiko.SFTPFile, part: str, path: str, error: BaseException) -> None:
        full = isinstance(error, GuestError) and self._is_full(path)
        with suppress(OSError, EOFError, paramiko.SSHException):
            file.close()
        try:
            with self._calling("remove", part):
                self._client.remove(part)
        except VmctlError as failure:
            error.add_note(f"{part} is left in '{self.machine}': {failure.brief}")
        if full:
            raise is_full(self.machine, path) from error

    def _is_full(self, path: str) -> bool:
        """Ask the guest whether a file system has no room: SFTP has no word for it."""
        transport = self._channel.get_transport()
        if transport is None or not transport.is_active():
            return False
        folder = shlex.quote(path.rpartition("/")[0] or ".")
        line = f"df -Pk -- {folder}; df -Pi -- {folder}"
        try:
            channel = transport.open_session(timeout=_SILENT_SECONDS)
            done = run_in(channel, line, machine=self.machine, timeout=_SILENT_SECONDS)
        except (VmctlError, paramiko.SSHException, OSError, EOFError):
            return False
        # "Filesystem 1024-blocks Used Available Capacity Mounted on"
        left = [line.split()[3] for line in done.stdout.splitlines() if len(line.split()) > 5]
        # A last block or so can be too small for what was to be written.
        return any(entry.isdigit() and int(entry) < 64 for entry in left)

    def pieces(self, path: str) -> Iterator[bytes]:
        """Give what is in a file, piece by piece, as long as it stays as it was.

        Raises:
            ConflictError: It was changed meanwhile.
        """
        with self._calling("read", path):
            file = self._client.open(path, "r")
        try:
            with self._calling("read", path):
                before = _facts(file.stat())
            given = 0
            for piece in self._blocks(file, path, before.size):
                given += len(piece)
                yield piece
            with self._calling("read", path):
                after = _facts(file.stat())
            if before != after or (before.size and given != before.size):
                raise ConflictError(
                    f"{path} in '{self.machine}' changed while it was copied",
                    hint="copy it again when nobody writes to it, or copy a snapshot of it",
                )
        finally:
            with suppress(OSError, EOFError, paramiko.SSHException):
                file.close()

    def _blocks(self, file: paramiko.SFTPFile, path: str, size: int) -> Iterator[bytes]:
        offset = 0
        while offset < size:
            end = min(size, offset + _WINDOW * _BLOCK)
            wanted = [(at, min(_BLOCK, end - at)) for at in range(offset, end, _BLOCK)]
            with self._calling("read", path):
                found = list(file.readv(wanted))
            for (_, length), piece in zip(wanted, found, strict=True):
                yield piece
                if len(piece) != length:
                    return
            offset = end
        while not size and offset < _MOST_OF_UNSIZED:
            with self._calling("read", path):
                piece = file.read(_BLOCK)
            if not piece:
                return
            offset += len(piece)
            yield piece


def is_full(machine: str, path: str) -> ResourceError:
    """Return the error that says that a disk in the guest is full."""
    return ResourceError(
        f"the disk of '{machine}' is full: there is no room for {path}",
        hint="make room in the guest, or give it a larger disk; what was begun is removed",
    )


def part_name(path: str) -> str:
    """Return the name that a file has until it is whole."""
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name[:_MOST_OF_NAME]}.vmctl-{secrets.token_hex(6)}"


def _write_at(file: paramiko.SFTPFile, offset: int, piece: bytes) -> None:
    if piece:
        file.seek(offset)
        file.write(piece)


def _facts(attributes: paramiko.SFTPAttributes) -> Facts:
    return Facts(
        mode=attributes.st_mode or 0,
        size=attributes.st_size or 0,
        mtime=attributes.st_mtime or 0,
    )
