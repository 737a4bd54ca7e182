"""Where a private host keeps its state, and how it may be called.

One folder per host::

    STATE_HOME/hosts/NAME/
        host.json        what is known of it (record.py)
        supervisor.log   libvirtd.log   virtlogd.log
        etc/  lib/  cache/  log/  run/  swtpm/      what its daemons see as theirs
    STATE_HOME/hosts/.NAME.lock                     held while somebody starts or stops it
    STATE_HOME/hosts/.NAME.trash                    a host that is being removed
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import urllib.parse
from pathlib import Path
from typing import Literal

from vmctl.errors import UsageError

__all__ = ["DEFAULT_HOME_OF_ROOT", "Kind", "Layout", "Network", "layout_for", "state_home"]

Kind = Literal["system", "session"]
Network = Literal["own", "host"]

DEFAULT_HOME_OF_ROOT = Path("/var/lib/vmctl")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
# sockaddr_un.sun_path holds 108 bytes (unix(7)), one of which is the final NUL.
_LONGEST_SOCKET_PATH = 107


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one host, whether it exists or not."""

    name: str
    state_dir: Path

    @property
    def record(self) -> Path:
        """What is known of the host."""
        return self.state_dir / "host.json"

    @property
    def socket(self) -> Path:
        """The socket of its libvirtd, as seen from outside."""
        return self.run / "libvirt" / "libvirt-sock"

    @property
    def run(self) -> Path:
        """What its daemons have for ``/run``, or for ``XDG_RUNTIME_DIR``."""
        return self.state_dir / "run"

    @property
    def home(self) -> Path:
        """``HOME`` of its daemons; in a session it also marks the processes that are its own."""
        return self.state_dir / "home"

    @property
    def lock_file(self) -> Path:
        """What is locked while the host is started or stopped."""
        return self.state_dir.parent / f".{self.name}.lock"

    @property
    def trash(self) -> Path:
        """What the folder is called while it is being removed."""
        return self.state_dir.parent / f".{self.name}.trash"

    @property
    def is_debris(self) -> bool:
        """Whether the folder is a host's whose record was cut short: by a kill, or a power failure.

        Nothing of such a host runs: its first record is written before anything is started. A
        record that is whole, and merely not understood, may be of a host that runs.
        """
        try:
            status = self.state_dir.lstat()
            mine = status.st_uid == os.geteuid() and not status.st_mode & 0o077
            if not mine or self._is_served():
                return False
            if not self.record.exists():
                return self.record.with_suffix(".new").exists()
            json.loads(self.record.read_bytes())
        except ValueError:
            return True
        except OSError:
            return False
        return False

    def _is_served(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def log(self, program: str) -> Path:
        """Return the log of ``supervisor``, ``libvirtd`` or ``virtlogd``."""
        return self.state_dir / f"{program}.log"

    def uri(self, kind: Kind) -> str:
        """Return the libvirt URI by which clients reach the host."""
        return f"qemu+unix:///{kind}?socket={urllib.parse.quote(str(self.socket))}"

    def remove(self) -> None:
        """Remove the host's files. Its processes must have ended, and the lock must be held."""
        # Renamed first: a removal that is cut short must not leave a host that looks half alive.
        with contextlib.suppress(FileNotFoundError):
            if self.trash.exists():
                shutil.rmtree(self.trash)
            self.state_dir.rename(self.trash)
        if self.trash.exists():
            shutil.rmtree(self.trash)


def state_home() -> Path:
    """Return the folder that vmctl keeps its state in.

    ``$VMCTL_STATE_HOME``, else ``/var/lib/vmctl`` for root, else ``$XDG_STATE_HOME/vmctl``, which
    is ``~/.local/state/vmctl`` unless set (XDG Base Directory Specification 0.8).
    """
    if given := os.environ.get("VMCTL_STATE_HOME"):
        return Path(given)
    if os.geteuid() == 0:
        return DEFAULT_HOME_OF_ROOT
    if given := os.environ.get("XDG_STATE_HOME"):
        return Path(given) / "vmctl"
    return Path.home() / ".local/state/vmctl"


def layout_for(name: str, home: Path | None = None) -> Layout:
    """Return the paths of the host ``name``.

    Raises:
        UsageError: The name can't be a host's name, or a path would be too long for a socket.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name[:40]!r} can't be the name of a private host",
            hint="use 1 to 31 lower-case letters, digits and hyphens, with no hyphen first",
        )
    layout = Layout(name, (home or state_home()).absolute() / "hosts" / name)
    length = len(os.fsencode(layout.socket))
    if length > _LONGEST_SOCKET_PATH:
        raise UsageError(
            f"the socket of private host {name} would have a path of {length} bytes, "
            f"and Linux allows {_LONGEST_SOCKET_PATH}",
            details=str(layout.socket),
            hint="set VMCTL_STATE_HOME to a folder with a shorter path",
        )
    return layout
