"""qemu-img, told the format of everything it opens, and held to limits.

Images may be made so that reading them takes all the memory or time there is (CVE-2015-5162), so
qemu-img runs under limits of both, as OpenStack's services run it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

from vmctl.errors import ImageError, ResourceError, UnsupportedError
from vmctl.imaging.inspection import Image
from vmctl.imaging.scratch import working_folder
from vmctl.progress import Phase

__all__ = ["CONVERTING", "check_whole", "convert", "no_room_for", "run_limited"]

_ADDRESS_SPACE = 2 << 30
# What any image may take, and a second more for every 4 MiB of it: the slowest disk does better.
_BASE_SECONDS = 120
_BYTES_A_SECOND = 4 << 20
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
# Of these qemu-img can say whether all that they point to is there.
_CHECKED = frozenset({"qcow2", "vmdk", "vhdx"})
# qemu-img's names for what everybody else calls otherwise.
_DRIVERS = {"vhd": "vpc"}
CONVERTING = ".vmctl-converting-"
"""What the names of the folders begin with that conversions are at work in."""

# Less than this is no room at all.
_NO_ROOM = 1 << 20


def convert(
    image: Image,
    target: Path,
    format: str,  # noqa: A002 - qemu-img's own word
    *,
    compress: bool = False,
    options: str = "",
    phase: Phase | None = None,
) -> None:
    """Write an inspected image anew, in another format or flat.

    The target appears when it is whole; what lies beside it until then goes if it fails, or with
    the next conversion beside it if its process was killed.

    Args:
        image: What `inspect` found.
        target: The file to write; one that is there is replaced.
        format: Its format.
        compress: Whether to compress it, where the format can.
        options: What follows qemu-img's ``-o``.
        phase: Told how far it is.

    Raises:
        ImageError: qemu-img found it damaged, or needed more memory or time than it is given.
        ResourceError: The disk is full.
        UnsupportedError: There is no qemu-img here.
    """
    check_whole(image)
    target = target.absolute()
    with working_folder(target.parent, CONVERTING) as folder:
        part = folder / "part"
        command = ["convert", "-p", "-O", _DRIVERS.get(format, format)]
        command += ["-c"] if compress else []
        command += ["-o", options] if options else []
        # An absolute path is never taken for a protocol (`nbd:`, `json:`).
        command += [_source(image), str(part)]
        before = _stamp(image.path)
        try:
            run_limited(command, size=max(image.size, image.virtual_size), phase=phase)
        except ImageError as error:
            if (full := no_room_for(target, error)) is not None:
                raise full from error
            raise ImageError(
                f"can't convert {str(image.path)!r} from {image.format} to {format}",
                details=error.details,
                hint="get the image again, and compare its checksum",
            ) from error
        if _stamp(image.path) != before or before[0] != image.size:
            raise ImageError(
                f"the image {str(image.path)!r} changed while it was being read",
                hint="convert a file that nothing writes to",
            )
        _sync(part)
        part.replace(target)


def check_whole(image: Image) -> None:
    """See that all that an inspected image's tables point to is in the file.

    qemu-img reads what a file lacks at its end as zeros, and says nothing of it. What is of a
    format that it can't check is left to `inspect`, which knows how long those files are.

    Raises:
        ImageError: It was cut off, or is damaged.
        UnsupportedError: There is no qemu-img here.
    """
    if image.format not in _CHECKED:
        return
    try:
        run_limited(
            ["check", "-q", _source(image)],
            size=image.virtual_size,
            # Clusters that nothing points to do no harm (qemu-img(1), "check").
            accepted=(0, 3),
        )
    except ImageError as error:
        raise ImageError(
            f"{str(image.path)!r} is a {image.format} image that was cut off, or damaged",
            details=error.details,
            hint="get it again, and compare its checksum",
        ) from error


def _source(image: Image) -> str:
    """Return what qemu-img shall open: the file in its format, and nothing that it may name."""
    file = {"driver": "file", "filename": str(image.path.absolute())}
    driver = _DRIVERS.get(image.format, image.format)
    node: dict[str, Any] = {"driver": driver, "file": file}
    if image.format in {"qcow2", "vmdk"}:
        node["backing"] = None
    return f"json:{json.dumps(node)}"


def _stamp(path: Path) -> tuple[int, int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def no_room_for(target: Path, error: ImageError) -> ResourceError | None:
    """Return the error for a disk that is full, if it was that which made qemu-img fail."""
    if shutil.disk_usage(target.parent).free >= _NO_ROOM:
        return None
    return ResourceError(
        f"there is no room for {str(target)!r}",
        details=error.details,
        hint="make room there, or name another folder",
    )


def run_limited(
    arguments: list[str],
    *,
    size: int,
    accepted: tuple[int, ...] = (0,),
    phase: Phase | None = None,
) -> str:
    """Run qemu-img under limits; returns what it printed.

    Args:
        arguments: Its command line; every format is to be given in it.
        size: Bytes of the largest disk it has to do with; its time is measured by that.
        accepted: The exit statuses that are no failure.
        phase: Told how far it is, from what ``-p`` prints.

    Raises:
        ImageError: It failed, or took more than it is given; ``details`` is what it said.
        UnsupportedError: There is no qemu-img, or no prlimit, here.
    """
    seconds = _BASE_SECONDS + size // _BYTES_A_SECOND
    command = [
        _program("prlimit", "util-linux"),
        f"--as={_ADDRESS_SPACE}",
        f"--cpu={seconds}",
        "--core=0",
        "--",
        _program("qemu-img", "qemu-utils"),
        *arguments,
    ]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        # Time passes for what hangs, too: on a network disk that is gone.
        watch = threading.Timer(4 * seconds, process.kill)
        watch.start()
        try:
            output = _read_out(process.stdout, phase)
            status = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            watch.cancel()
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").strip()
    if status not in accepted:
        why = f"it was ended after {seconds} s of computing" if status < 0 else ""
        raise ImageError(
            f"qemu-img {arguments[0]} failed",
            details="\n".join(part for part in (said, why) if part),
            hint="get the image again, and compare its checksum",
        )
    return output


def _read_out(stream: IO[bytes] | None, phase: Phase | None) -> str:
    output = b""
    while stream is not None and (piece := stream.read1(4096)):  # type: ignore[attr-defined]  # a pipe's reader has it
        output = (output + piece)[-(1 << 20) :]
        found = _PERCENT.findall(piece)
        if found and phase is not None:
            phase.update("converting", float(found[-1]) / 100)
    return output.decode("utf-8", "replace")


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise UnsupportedError(
            f"there is no program {name} here",
            hint=f"install the package {package} on the machine that vmctl runs on",
        )
    return found
