"""Base images: kept in a pool once, by their digest, under all the disks that are their clones."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vmctl.errors import (
    ConflictError,
    HypervisorError,
    ImageError,
    NotFoundError,
    ResourceError,
    WrongStateError,
)
from vmctl.hypervisor import uploads
from vmctl.hypervisor.claims import Claim
from vmctl.hypervisor.events import Signal
from vmctl.hypervisor.image_names import ImageName
from vmctl.hypervisor.pools import Pool
from vmctl.hypervisor.usage import Usage, VolumeUser
from vmctl.hypervisor.volumes import StoredVolume, VolumeStamp
from vmctl.imaging.inspection import Image
from vmctl.imaging.reading import reading
from vmctl.progress import Phase
from vmctl.render.volume import render_volume

__all__ = [
    "base_name",
    "being_removed",
    "copy_volume",
    "digest_of",
    "ensure_in_pool",
    "is_base",
    "is_being_removed",
    "is_complete",
    "name_for",
    "refuse_another",
    "refuse_without_room",
    "refuse_writing",
    "users_of",
]

_MAGIC = b"QFI\xfb"
# The header goes into the pool last: a base image whose first bytes are there is whole.
_HEADER_SIZE = 65536
_WINDOW = 16 << 20
# An upload that has not moved for so long has nobody behind it.
_STALLED_SECONDS = 30.0
# That others may look at the beginning of a volume, one after the other.
_BUSY_SECONDS = 10.0
# Longer than a removal takes.
_REMOVAL_SECONDS = 60.0


def name_for(digest: str) -> str:
    """Return the name of the volume of an image with that SHA-256."""
    return f"sha256-{digest}.qcow2"


def base_name(image: Image | ImageName) -> str:
    """Return the name of the image's volume."""
    return name_for(image.digest)


def digest_of(volume: str) -> str:
    """Return the digest that a base image's name states."""
    return volume.removeprefix("sha256-").removesuffix(".qcow2")


def is_base(volume: str) -> bool:
    """Return whether a volume of that name is a base image of vmctl's."""
    return volume.startswith("sha256-") and volume.endswith(".qcow2") and len(volume) == 77


def refuse_writing(volume: str) -> None:
    """Refuse to let anybody write to a base image: its name states what is in it.

    Raises:
        ConflictError: It is one.
    """
    if is_base(volume):
        raise ConflictError(
            f"the volume '{volume}' is an image's, and must not change",
            hint="write `image:` for a clone of it, or attach it with read_only",
        )


def users_of(usage: Usage, pool: Pool, digest: str) -> tuple[VolumeUser, ...]:
    """Return what depends on an image."""
    volume = name_for(digest)
    return usage.users(pool.name, volume, pool.path_of(volume))


def is_complete(pool: Pool, volume: str) -> bool:
    """Return whether a base image is in the pool, and whole."""
    image = StoredVolume.of(pool, volume)
    try:
        return _beginning(image) == _MAGIC
    except NotFoundError:
        return False
    except HypervisorError:
        # libvirt lists a file that was removed behind its back until it looks through the pool.
        pool.refresh()
        if image.exists():
            raise
        return False


def _beginning(volume: StoredVolume) -> bytes:
    """Return a volume's first bytes; none of one that libvirt is just making for somebody else.

    Raises:
        NotFoundError: There is no such volume.
    """
    try:
        return volume.read(length=len(_MAGIC))
    except WrongStateError:
        return b""


@contextmanager
def being_removed(pool: Pool, volume: str, claim: Claim) -> Iterator[None]:
    """Say, while the block runs, that a base image is going: who needs it waits until then.

    Whoever has it in a record of its own, and then finds nobody at this, can rely on it; so who
    uses it is to be looked at within the block.

    Raises:
        ConflictError: Somebody else is removing it, and takes too long.
    """
    note = StoredVolume.of(pool, volume)

    def noted() -> bool | None:
        try:
            uploads.take_over(note, claim, kind=uploads.REMOVING)
        except ConflictError:
            return None
        except ResourceError:
            # A pool that is full is just what images are removed for.
            return False
        return True

    deadline = time.monotonic() + _REMOVAL_SECONDS
    written = Signal().wait_for(noted, deadline=deadline, recheck=0.2)
    if written is None:
        raise ConflictError(
            f"somebody else is removing the image '{volume}'", hint="try again in a while"
        )
    try:
        yield
    finally:
        if written:
            uploads.unmark(note, kind=uploads.REMOVING)


def refuse_another(volume: StoredVolume, image: Image) -> None:
    """Refuse what lies under an image's name and is not that image; it is read whole.

    Raises:
        ConflictError: It is something else.
    """
    sha256, offset = hashlib.sha256(), 0
    while piece := volume.read(start=offset, length=_WINDOW):
        sha256.update(piece)
        offset += len(piece)
        if len(piece) < _WINDOW:
            break
    if sha256.hexdigest() != image.digest:
        raise ConflictError(
            f"the volume '{volume.name}' in the pool '{volume.pool}' is not the image that its "
            "name states",
            hint="somebody put it there, or changed it: see who uses it by `vmctl doctor`",
        )


def is_being_removed(pool: Pool, volume: str) -> bool:
    """Return whether somebody is at removing a base image right now."""
    note = StoredVolume.of(pool, volume)
    return uploads.is_marked(note, kind=uploads.REMOVING)


def refuse_without_room(pool: Pool, image: Image) -> None:
    """Say that the pool has no room for an image that it lacks, before anything is made.

    Raises:
        ResourceError: It has less than the image's size free.
    """
    if StoredVolume.of(pool, base_name(image)).exists():
        return
    pool.refresh()
    if pool.available() < image.size:
        raise pool.no_room(f"for the image ({image.size} bytes)")


def ensure_in_pool(
    pool: Pool,
    image: Image | ImageName,
    *,
    phase: Phase,
    note_brought: Callable[[bool], None],
) -> StoredVolume:
    """Return the image's volume, uploaded if it isn't there; of many that try, one uploads.

    Whoever uploads writes the same bytes to the same places, and the header last. So one whose
    uploader has gone can be taken over by writing all of it again; nothing is deleted here.

    Args:
        pool: Where to.
        image: What: a file, or one that was in the pool when it was looked for.
        phase: Told how far it is.
        note_brought: Called with True before the volume is created or taken over, and with False
            when it turns out that it was there.

    Raises:
        ResourceError: The pool is too full.
        ImageError: The file changed while it was being read.
        ConflictError: The upload stood still for so long that another may have taken it over; or
            the volume of that name is somebody else's.
    """
    volume = StoredVolume.of(pool, base_name(image))
    while True:
        if is_complete(pool, volume.name):
            phase.update("already in the pool")
            break
        if isinstance(image, ImageName):
            raise ConflictError(
                f"the image '{image.name}' was removed while it was about to be used",
                hint=f"get it again: vmctl image pull {image.name}",
            )
        if not volume.exists():
            note_brought(True)
            try:
                volume.create(render_volume(volume.name, capacity=image.size, format="raw"))
            except ConflictError:
                note_brought(False)
                pool.refresh()
                continue
            _upload(volume, image, phase)
        elif any(_beginning(volume)):
            if is_complete(pool, volume.name):
                continue
            # No upload of vmctl's begins with anything but zeros.
            raise volume.name_is_taken()
        elif _stands_still(pool, volume, phase):
            phase.update("its uploader is gone; uploading it again")
            # Whoever began it may not be there any more to take it away.
            note_brought(True)
            _upload(volume, image, phase)
    if not volume.exists():
        raise ConflictError(
            f"the volume '{volume.name}' was removed while it was about to be used",
            hint="launch again",
        )
    return volume


def _upload(volume: StoredVolume, image: Image, phase: Phase) -> None:
    sent, moved = 0, _clock()
    sha256 = hashlib.sha256()

    def check() -> None:
        """Give up after a stall: somebody else may have taken it over."""
        nonlocal moved
        now = _clock()
        if now - moved > _STALLED_SECONDS / 2:
            raise ConflictError(
                f"the upload of the image {str(image.path)!r} stood still for too long",
                hint="launch again",
            )
        moved = now

    def progress(count: int) -> None:
        nonlocal sent
        check()
        sent += count
        phase.update("uploading", sent / image.size)

    def shown(piece: bytes) -> None:
        check()
        sha256.update(piece)

    with reading(image.path, "image file"), image.path.open("rb") as file:
        header = file.read(_HEADER_SIZE)
        sha256.update(header)
        rest = image.size - len(header)
        _when_free(
            lambda: volume.upload(
                file.fileno(), start=len(header), length=rest, sent=progress, shown=shown
            )
        )
    # What was looked at had this digest; until the header follows, nothing takes it for an image.
    if sha256.hexdigest() != image.digest:
        raise ImageError(
            f"the image {str(image.path)!r} changed while it was being read",
            hint="launch from a file that nothing writes to",
        )
    check()
    _when_free(lambda: volume.write(header, sent=progress))


def _when_free(write: Callable[[], None]) -> None:
    """Write to a volume as soon as nobody reads its beginning: libvirt lets only one of both in.

    Raises:
        ConflictError: Somebody else has it for too long.
    """

    def written() -> bool | None:
        try:
            write()
        except WrongStateError:
            return None
        return True

    # It is refused before anything is sent, so that it can be tried again.
    deadline = time.monotonic() + _BUSY_SECONDS
    if Signal().wait_for(written, deadline=deadline, recheck=0.1) is None:
        write()


def _clock() -> float:
    """Return seconds that go on while the machine sleeps, as they do for others."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def copy_volume(base: StoredVolume, copy: StoredVolume, xml: str, capacity: int) -> None:
    """Make a volume that holds all of an image, and stands alone."""
    copy.create(xml, source=base)
    if copy.facts().capacity < capacity:
        # A copy is as large as what it is a copy of.
        copy.resize(capacity)


def _stands_still(pool: Pool, volume: StoredVolume, phase: Phase) -> bool:
    """Wait for somebody else's upload to move, or to end; returns whether it doesn't."""
    phase.update("somebody else is uploading it")
    before = _stamp(volume)

    def moved() -> bool | None:
        return True if _stamp(volume) != before or is_complete(pool, volume.name) else None

    deadline = time.monotonic() + _STALLED_SECONDS
    return Signal().wait_for(moved, deadline=deadline, recheck=0.5) is None


def _stamp(volume: StoredVolume) -> VolumeStamp | None:
    try:
        return volume.stamp()
    except NotFoundError:
        return None
