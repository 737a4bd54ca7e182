"""Run the tools that the builder is made of."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from guest_images.errors import BuildError

PACKAGES_FILE = Path(__file__).with_name("packages.txt")
TOOLS = (
    *("depmod", "grub-mkimage", "mcopy", "mke2fs", "mkfs.vfat", "mmdebstrap", "qemu-img"),
    *("sfdisk",),
)
GRUB_FOLDER = Path("/usr/lib/grub/i386-pc")


def progress(text: str) -> None:
    """Tell the person who waits; standard output is for the result only."""
    print(f"guest-image: {text}", file=sys.stderr, flush=True)


def check_host(extra_tools: Iterable[str] = ()) -> None:
    """Refuse to begin what can't be finished."""
    missing = [tool for tool in (*TOOLS, *extra_tools) if _which(tool) is None]
    if not GRUB_FOLDER.is_dir():
        missing.append(str(GRUB_FOLDER))
    if missing:
        raise BuildError(
            f"not on this host: {', '.join(missing)}",
            f"install the Debian packages listed in {PACKAGES_FILE}",
        )
    if os.geteuid() != 0:
        raise BuildError(
            "building an image needs root, because its files belong to root",
            "run this command with sudo, or take an image that someone has built",
        )


def run(command: Sequence[str | Path], *, stdin: str = "") -> str:
    """Run `command` and return what it printed; raise BuildError when it fails."""
    words = [str(word) for word in command]
    # The lock's descriptor is the only inheritable one (see cache.py): what this starts holds the
    # lock for as long as it lives, also when the builder itself is killed.
    with subprocess.Popen(
        [_which(words[0]) or words[0], *words[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        close_fds=False,
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    ) as process:
        try:
            output, errors = process.communicate(stdin)
        except BaseException:
            _end(process)
            raise
    if process.returncode != 0:
        lines = [line for line in (errors or output).splitlines() if line.strip()]
        for line in lines[-20:]:
            progress(line)
        said = [line for line in lines if line.startswith("E: ")] or lines or ["no message"]
        raise BuildError(
            f"{Path(words[0]).name} failed with status {process.returncode}: {said[-1].strip()}",
            f"the command was: {' '.join(words)}",
        )
    return output


def _which(tool: str) -> str | None:
    """The tool's path, looked for in the administrator's folders too."""
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _end(process: subprocess.Popen[str]) -> None:
    """End a command and what it started: politely first, so that it can undo its mounts."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return
