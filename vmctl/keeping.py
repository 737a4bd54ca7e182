"""An image brought into a pool under a name, and taken out of it with its names."""

from __future__ import annotations

from collections.abc import Collection

from vmctl import bases
from vmctl.errors import ConflictError
from vmctl.hypervisor import image_names, uploads
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.image_names import ImageName
from vmctl.hypervisor.pools import Pool, refresh_files
from vmctl.hypervisor.usage import read_usage
from vmctl.hypervisor.volumes import StoredVolume
from vmctl.imaging.inspection import Image
from vmctl.progress import Phase

__all__ = ["bring_in", "forget_names_of_nothing", "is_being_uploaded", "take_out"]

# Uploading to a far host may take its time.
_UPLOAD_SECONDS = 7200.0
# Longer than a removal takes.
_REMOVAL_SECONDS = 120.0


def is_being_uploaded(pool: Pool, digest: str) -> bool:
    """Return whether somebody is bringing an image in right now."""
    return uploads.is_marked(StoredVolume.of(pool, bases.name_for(digest)))


def bring_in(pool: Pool, image: Image, entry: ImageName, phase: Phase) -> None:
    """Bring an image into the pool, and give it a name.

    It is recorded from before the image is there until it has its name: `gc` finds what a killed
    client leaves, and nobody takes the image for one that nobody wants.

    Args:
        pool: Where to.
        image: The file.
        entry: The name, and what is known of the image.
        phase: Told how far the upload is.

    Raises:
        ResourceError: The pool is too full.
        ImageError: The file changed while it was being read.
    """
    volume = StoredVolume.of(pool, bases.base_name(image))
    with claimed(_UPLOAD_SECONDS) as claim:
        try:
            uploads.take_over(volume, claim)
            marked = True
        except ConflictError:
            # Somebody else brings it; what that one does is waited for.
            marked = False
        brought = False

        def note_brought(now: bool) -> None:
            nonlocal brought
            brought = now

        try:
            bases.ensure_in_pool(pool, image, phase=phase, note_brought=note_brought)
            if not brought:
                # Its name alone says little: anybody can put a file there.
                bases.refuse_another(volume, image)
            image_names.write_name(pool, entry)
        except BaseException:
            whole = bases.is_complete(pool, volume.name)
            if brought and marked and not whole and not _is_awaited(pool, image):
                volume.delete()
            raise
        finally:
            if marked:
                uploads.unmark(volume)


def _is_awaited(pool: Pool, image: Image) -> bool:
    """Return whether a launch has the image in its record: that one sees to it then."""
    return bool(bases.users_of(read_usage(pool.connection), pool, image.digest))


def take_out(pool: Pool, digest: str, names: Collection[str]) -> bool:
    """Delete an image unless something uses it; a launch that comes meanwhile waits.

    Args:
        pool: Where it is.
        digest: Which.
        names: The names that it is known to have; with another one it stays.

    Returns:
        Whether it was deleted.
    """
    volume = StoredVolume.of(pool, bases.name_for(digest))
    with claimed(_REMOVAL_SECONDS) as claim, bases.being_removed(pool, volume.name, claim):
        own = {entry.name for entry in image_names.list_names(pool) if entry.digest == digest}
        # It may have been given a name, or a user, since it was looked at.
        if is_being_uploaded(pool, digest) or not own <= set(names):
            return False
        refresh_files(pool.connection)
        if bases.users_of(read_usage(pool.connection), pool, digest):
            return False
        for name in own:
            image_names.remove_name(pool, name)
        volume.delete()
    return True


def forget_names_of_nothing(pool: Pool, digests: Collection[str]) -> None:
    """Remove names whose image was removed by somebody who knows nothing of names.

    Args:
        pool: Where they are.
        digests: Those of the images that are there for sure.
    """
    for entry in image_names.list_names(pool):
        volume = StoredVolume.of(pool, bases.name_for(entry.digest))
        if entry.digest not in digests and not volume.exists():
            image_names.remove_name(pool, entry.name)
