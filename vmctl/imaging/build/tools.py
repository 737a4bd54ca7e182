"""Run the tools that the builder is made of."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from vmctl.errors import ImageError, PermissionDeniedError, ResourceError, UnsupportedError

__all__ = ["GRUB_FOLDER", "KEYRING", "PACKAGES", "check_host", "run"]

GRUB_FOLDER = Path("/usr/lib/grub/i386-pc")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# What has to be on the host, and the Debian package that brings it.
PACKAGES = {
    "grub-mkimage": "grub-common",
    "mcopy": "mtools",
    "mke2fs": "e2fsprogs",
    "mkfs.vfat": "dosfstools",
    "mmdebstrap": "mmdebstrap",
    "qemu-img": "qemu-utils",
    "setpriv": "util-linux",
    "sfdisk": "fdisk",
    "unshare": "util-linux",
    str(GRUB_FOLDER): "grub-pc-bin",
    str(KEYRING): "debian-archive-keyring",
}
# Ends with whoever started it, together with all that it started, and so does what it mounted.
_CONFINED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
_NO_SPACE = "No space left on device"
_SHOWN_LINES = 20
_LOOK = "see what it said; when nothing helps, build it anew"


def check_host(extra: Mapping[str, str] | None = None) -> None:
    """Refuse to begin what can't be finished.

    Args:
        extra: Further tools, each with the Debian package that brings it.

    Raises:
        UnsupportedError: A tool is not installed.
        PermissionDeniedError: This process is not root's.
    """
    wanted = {**PACKAGES, **(extra or {})}
    missing = [tool for tool in wanted if not _is_there(tool)]
    if missing:
        raise UnsupportedError(
            f"an image can't be built without {', '.join(missing)}",
            hint=f"apt install {' '.join(sorted({wanted[tool] for tool in missing}))}",
        )
    if os.geteuid() != 0:
        raise PermissionDeniedError(
            "building an image needs root, because the files in it belong to root",
            hint="run this as root, or take an image that somebody has built or pulled",
        )


def _is_there(tool: str) -> bool:
    return Path(tool).exists() if tool.startswith("/") else _which(tool) is not None


def run(
    command: Sequence[str | Path],
    *,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    confined: bool = False,
    hint: str = _LOOK,
) -> str:
    """Run `command` and return what it printed.

    Args:
        command: The tool and its arguments.
        stdin: What it reads.
        environment: Variables that it gets beside this process's own.
        confined: Whether it gets namespaces of its own for mounts and processes, which end with
            this process, however that ends.
        hint: What to do when it fails.

    Raises:
        ImageError: It failed; `details` has the end of what it said.
        ResourceError: It failed because the file system is full.
    """
    words = [str(word) for word in command]
    whole = [*_CONFINED, *words] if confined else words
    # The lock's descriptor is the only inheritable one (see cache.py): what this starts holds the
    # lock for as long as it lives, also when the builder itself is killed.
    with subprocess.Popen(
        [_which(whole[0]) or whole[0], *whole[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        close_fds=False,
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
    ) as process:
        try:
            output, errors = process.communicate(stdin)
        except BaseException:
            _end(process)
            raise
    if process.returncode != 0:
        raise _failure(words, process.returncode, errors or output, hint)
    return output


def _failure(words: Sequence[str], status: int, text: str, hint: str) -> ImageError | ResourceError:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    details = "\n".join([*lines[-_SHOWN_LINES:], f"the command was: {shlex.join(words)}"])
    tool = Path(words[0]).name
    # The language of the tools is set above.
    if _NO_SPACE in text:
        return ResourceError(
            f"there is no space left for what {tool} writes",
            details=details,
            hint="make room, or let VMCTL_IMAGE_CACHE name a folder with more of it",
        )
    said = [line for line in lines if line.startswith("E: ")] or lines or ["no message"]
    # What apt says first is the cause; what mmdebstrap says of it comes after.
    shown = said[0] if said[0].startswith("E: ") else said[-1]
    return ImageError(
        f"{tool} failed with status {status}: {shown.removeprefix('E: ').rstrip('.')}",
        details=details,
        hint=hint,
    )


def _which(tool: str) -> str | None:
    """Return the tool's path, looked for in the administrator's folders too."""
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _end(process: subprocess.Popen[str]) -> None:
    """End a command and what it started: politely first, so that it can undo its mounts."""
    numbers: Iterable[int] = (signal.SIGTERM, signal.SIGKILL)
    for number in numbers:
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return
