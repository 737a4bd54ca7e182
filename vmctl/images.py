"""Images: from anywhere into the pool, each stored once, under a name, and out again."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urldefrag

from vmctl import bases
from vmctl.errors import ConflictError, ImageError, NotFoundError, UsageError
from vmctl.hypervisor import image_names, uploads
from vmctl.hypervisor.claims import claimed
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.image_names import ImageName
from vmctl.hypervisor.pools import Pool, open_pool
from vmctl.hypervisor.usage import Usage, read_usage
from vmctl.hypervisor.volumes import StoredVolume, list_volumes
from vmctl.imaging.conversion import as_qcow2
from vmctl.imaging.inspection import Image, inspect
from vmctl.progress import Phase, ProgressCallback, Reporter

if TYPE_CHECKING:
    # What fetches is loaded when something is fetched: TLS and HTTP take their time.
    from vmctl.imaging.catalogue import Entry
    from vmctl.imaging.download import Fetched, Source

__all__ = ["ImageInfo", "Images", "obtain"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"(?:sha256[:-])?([0-9a-f]{8,64})")
# Uploading to a far host may take its time.
_UPLOAD_SECONDS = 7200.0
# Longer than a removal takes.
_REMOVAL_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class ImageInfo:
    """A base image in the pool.

    Attributes:
        digest: SHA-256 of it, in hexadecimal.
        names: What it is called.
        virtual_size: Bytes a guest sees.
        allocation: Bytes that it takes in the pool.
        complete: Whether it is whole; one that isn't is being uploaded, or was left by a client
            that was killed.
        used_by: Machines and volumes that depend on it, whoever made them.
        clones: How many disks lie on it.
        saved: Bytes that those disks would take if each had a copy of its own.
        sources: Where it came from, for each name.
        verified_by: What it was compared with, for each name.
    """

    digest: str
    names: tuple[str, ...]
    virtual_size: int
    allocation: int
    complete: bool
    used_by: tuple[str, ...]
    clones: int
    saved: int
    sources: tuple[str, ...] = ()
    verified_by: tuple[str, ...] = ()


class Images:
    """The base images of one pool of a host."""

    def __init__(self, connection: Connection, pool: str) -> None:
        self._connection = connection
        self._pool = pool

    def _open(self) -> Pool:
        return open_pool(self._connection, self._pool)

    # -- in

    def pull(
        self,
        reference: str,
        *,
        sha256: str | None = None,
        name: str | None = None,
        arch: str = "x86_64",
        unverified: bool = False,
        progress: ProgressCallback | None = None,
    ) -> ImageInfo:
        """Fetch an image, verify it, and keep it in the pool under a name.

        Args:
            reference: A name of the catalogue, or a URL.
            sha256: Its checksum, SHA-256 or SHA-512, before it is unpacked; for a URL.
            name: What to call it; the catalogue's name, or the end of the URL.
            arch: The guests' architecture, for a name of the catalogue.
            unverified: That it is wanted although nothing says what it has to be.
            progress: Told of the phases ``image`` and ``upload``.

        Raises:
            NotFoundError: The catalogue has no such name.
            ImageError: It can't be had, is not what its checksum says, or is not fit to be used.
            ResourceError: There is no room for it.
        """
        from vmctl.imaging.catalogue import Catalogue  # noqa: PLC0415 - see above

        entry: Entry | None = None
        if "://" in reference:
            source = _source(reference, sha256, unverified=unverified)
        else:
            entry = Catalogue().find(reference, arch)
            source = entry.source
            if sha256 is not None:
                source = _source(entry.url, sha256)
        called = _checked(name or (entry.name if entry else _name_of(source.url)))
        reporter = Reporter(called, progress)
        with reporter.phase("image") as phase:
            image, fetched = _acquire(source, phase)
            image = as_qcow2(image, phase=phase)
        return self._keep(
            image,
            called,
            reporter,
            source=fetched.url,
            verified_by=fetched.verified_by,
            user=(entry.user or "") if entry else "",
            os=(entry.os or "") if entry else "",
            arch=entry.arch if entry else "",
        )

    def import_file(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        format: str | None = None,  # noqa: A002 - the field's own word
        progress: ProgressCallback | None = None,
    ) -> ImageInfo:
        """Keep a local image file in the pool under a name.

        Args:
            path: A file of any format that vmctl takes in.
            name: What to call it; the file's name without its ending.
            format: What it is declared to be; a raw disk without partitions must be.
            progress: Told of the phases ``image`` and ``upload``.

        Raises:
            NotFoundError: There is no such file.
            ImageError: It is not fit to be used.
            ResourceError: There is no room for it.
        """
        file = Path(path)
        called = _checked(name or _name_of(file.name))
        reporter = Reporter(called, progress)
        with reporter.phase("image") as phase:
            image = as_qcow2(inspect(file, format=format, phase=phase), phase=phase)
        return self._keep(image, called, reporter, source=file.name, verified_by="")

    def build(
        self,
        recipe: str,
        *,
        name: str | None = None,
        packages: Sequence[str] = (),
        mirror: str | Sequence[str] = (),
        progress: ProgressCallback | None = None,
    ) -> ImageInfo:
        """Build an image from a distribution's packages, and keep it in the pool under a name.

        Args:
            recipe: One of `vmctl.imaging.build.recipes`: ``debian-12``.
            name: What to call it; the recipe's name.
            packages: Packages to install beside the recipe's own.
            mirror: The mirrors to take; those of this machine by default.
            progress: Told of the phases ``build`` and ``upload``.

        Raises:
            NotFoundError: There is no such recipe.
            PermissionDeniedError: This user is not root.
            UnsupportedError: This machine lacks a tool for it.
            ImageError: The building failed.
        """
        from vmctl.imaging.build import build  # noqa: PLC0415 - few build

        called = _checked(name or recipe)
        reporter = Reporter(called, progress)
        with reporter.phase("build") as phase:
            path = build(recipe, packages=packages, mirror=mirror, phase=phase)
        with reporter.phase("image") as phase:
            image = inspect(path, format="qcow2", phase=phase)
        return self._keep(image, called, reporter, source="built here", verified_by="apt")

    def _keep(self, image: Image, name: str, reporter: Reporter, **known: str) -> ImageInfo:
        pool = self._open()
        bases.refuse_without_room(pool, image)
        entry = ImageName(
            name=name,
            digest=image.digest,
            virtual_size=image.virtual_size,
            added=datetime.now(UTC).isoformat(timespec="seconds"),
            **known,
        )
        with reporter.phase("upload") as phase:
            _upload(pool, image, entry, phase)
        return self.info(name)

    # -- there

    def list(self) -> Sequence[ImageInfo]:
        """Return the images of the pool, sorted by name."""
        pool = self._open()
        usage = read_usage(self._connection)
        names = image_names.list_names(pool)
        volumes = list_volumes(self._connection, pool.name)
        found = []
        for volume in volumes:
            if not bases.is_base(volume.name):
                continue
            called = [entry for entry in names if entry.digest == bases.digest_of(volume.name)]
            clones = sum(other.backing == volume.path for other in volumes)
            found.append(
                ImageInfo(
                    digest=bases.digest_of(volume.name),
                    names=tuple(entry.name for entry in called),
                    virtual_size=called[0].virtual_size if called else volume.capacity,
                    allocation=volume.allocation,
                    complete=bases.is_complete(pool, volume.name),
                    used_by=_users(usage, pool, volume.name),
                    clones=clones,
                    saved=volume.allocation * max(clones - 1, 0),
                    sources=tuple(entry.source for entry in called),
                    verified_by=tuple(entry.verified_by for entry in called),
                )
            )
        return sorted(found, key=lambda image: (image.names or ("~",), image.digest))

    def info(self, reference: str) -> ImageInfo:
        """Return one image, by its name or the beginning of its digest.

        Raises:
            NotFoundError: There is none.
            ConflictError: Several digests begin so.
        """
        everything = self.list()
        found = [image for image in everything if reference in image.names]
        match = _DIGEST.fullmatch(reference)
        if not found and match:
            found = [image for image in everything if image.digest.startswith(match[1])]
        if not found:
            raise NotFoundError(
                f"there is no image '{reference[:80]}' in the pool '{self._pool}'",
                hint="`vmctl image list` shows what there is; `vmctl image pull` gets one",
            )
        if len(found) > 1:
            raise ConflictError(
                f"{len(found)} images begin with '{reference}'", hint="give more of the digest"
            )
        return found[0]

    @staticmethod
    def catalogue(arch: str | None = None) -> Sequence[Entry]:
        """Return what can be pulled by name: vmctl's own entries, and the user's."""
        from vmctl.imaging.catalogue import Catalogue  # noqa: PLC0415 - see above

        return Catalogue().entries(arch)

    # -- out

    def remove(self, reference: str) -> ImageInfo:
        """Remove an image, or only a name of it where it has others.

        Returns:
            What it was.

        Raises:
            NotFoundError: There is none.
            ConflictError: Something depends on it, whoever made that; it is named.
        """
        found = self.info(reference)
        pool = self._open()
        if len(found.names) > 1 and reference in found.names:
            image_names.remove_name(pool, reference)
            return found
        if not self._delete(pool, found):
            users = self.info(found.digest).used_by or ("somebody is bringing it in right now",)
            raise ConflictError(
                f"the image '{reference}' is in use",
                details="\n".join(users),
                hint="remove what depends on it first",
            )
        return found

    def prune(self, *, everything: bool = False, dry_run: bool = False) -> Sequence[ImageInfo]:
        """Remove images that nothing depends on and that have no name, and names of none.

        Args:
            everything: Those with names as well.
            dry_run: Only look.

        Returns:
            What was, or would be, removed.
        """
        pool = self._open()
        found = self.list()
        if not dry_run:
            _forget_names_of_nothing(pool, found)
        return [
            image
            for image in found
            if not image.used_by
            and (everything or not image.names)
            and not _is_being_uploaded(pool, image)
            and (dry_run or self._delete(pool, image))
        ]

    def _delete(self, pool: Pool, image: ImageInfo) -> bool:
        """Delete an image unless something uses it; a launch that comes meanwhile waits."""
        volume = bases.name_for(image.digest)
        with claimed(_REMOVAL_SECONDS) as claim, bases.being_removed(pool, volume, claim):
            names = [
                entry.name for entry in image_names.list_names(pool) if entry.digest == image.digest
            ]
            # It may have been given a name, or a user, since it was looked at.
            if _is_being_uploaded(pool, image) or not set(names) <= set(image.names):
                return False
            if _users(read_usage(self._connection), pool, volume):
                return False
            for name in names:
                image_names.remove_name(pool, name)
            StoredVolume.of(pool, volume).delete()
        return True


def _forget_names_of_nothing(pool: Pool, images: Sequence[ImageInfo]) -> None:
    """Remove names whose image was removed by somebody who knows nothing of names."""
    there = {image.digest for image in images}
    for entry in image_names.list_names(pool):
        volume = StoredVolume.of(pool, bases.name_for(entry.digest))
        if entry.digest not in there and not volume.exists():
            image_names.remove_name(pool, entry.name)


def _users(usage: Usage, pool: Pool, volume: str) -> tuple[str, ...]:
    return usage.users(pool.name, volume, pool.path_of(volume))


def _is_being_uploaded(pool: Pool, image: ImageInfo) -> bool:
    name = bases.name_for(image.digest)
    return uploads.is_marked(StoredVolume.of(pool, name))


def _upload(pool: Pool, image: Image, entry: ImageName, phase: Phase) -> None:
    """Bring an image into the pool, and give it a name.

    It is recorded from before the image is there until it has its name: `gc` finds what a killed
    client leaves, and nobody takes the image for one that nobody wants.
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
            image_names.write_name(pool, entry)
        except BaseException:
            whole = bases.is_complete(pool, volume.name)
            if brought and marked and not whole and not _is_awaited(pool, volume.name):
                volume.delete()
            raise
        finally:
            if marked:
                uploads.unmark(volume)


def _is_awaited(pool: Pool, volume: str) -> bool:
    """Return whether a launch has the image in its record: that one sees to it then."""
    return bool(_users(read_usage(pool.connection), pool, volume))


def _acquire(source: Source, phase: Phase) -> tuple[Image, Fetched]:
    from vmctl.imaging.acquiring import acquire  # noqa: PLC0415 - see above

    return acquire(source, phase=phase)


def _source(url: str, checksum: str | None, *, unverified: bool = False) -> Source:
    """Return what to fetch for a URL, whose fragment may hold the checksum: ``#sha256=...``."""
    from vmctl.imaging.checksums import Checksum  # noqa: PLC0415 - see above
    from vmctl.imaging.download import Source  # noqa: PLC0415

    plain, fragment = urldefrag(url)
    if fragment:
        kind, equals, digits = fragment.partition("=")
        if not equals or checksum is not None:
            raise UsageError(
                "what follows the # of an image's URL is no checksum, or there are two",
                hint="write URL#sha256=DIGITS, or give the checksum by --sha256",
            )
        checksum = f"{kind}:{digits}"
    if checksum is None and not unverified:
        raise ImageError(
            "an image from a URL needs a checksum, which says what it has to be",
            hint="give it by --sha256, or as URL#sha256=DIGITS; where there is none: --unverified",
        )
    return Source(
        url=plain,
        checksum=None if checksum is None else Checksum.parse(checksum),
        unverified=unverified,
    )


def _name_of(place: str) -> str:
    """Return a name from the end of a URL or path: ``debian-12.qcow2.xz`` is ``debian-12``."""
    name = re.split(r"[?#]", place, maxsplit=1)[0].rstrip("/").rpartition("/")[2]
    while re.search(r"\.(qcow2|img|raw|vmdk|vdi|vhd|vhdx|xz|gz|bz2|zst)$", name, re.IGNORECASE):
        name = name.rpartition(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip(".-_")[:64]


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) is None or _DIGEST.fullmatch(name):
        raise UsageError(
            f"{name[:80]!r} can't be an image's name",
            hint="a name has letters, digits, dots, dashes and underscores, and does not look like "
            "a digest; give one by --name",
        )
    return name


def obtain(pool: Pool, reference: str, *, reporter: Reporter, arch: str) -> Image | ImageName:
    """Return the image that a spec names: a file, a name in the pool or the catalogue, or a URL.

    What is not on this machine and not in the pool is fetched, as `Images.pull` fetches it.

    Args:
        pool: Where names are looked up.
        reference: A path, a name, or ``URL#sha256=DIGITS``.
        reporter: Told of the phase ``image``.
        arch: The guest's architecture.

    Returns:
        A file that was looked at, or what is in the pool already.

    Raises:
        NotFoundError: There is none.
        ImageError: It is not fit to be used, or can't be had.
    """
    is_url = "://" in reference
    if not is_url and _NAME.fullmatch(reference) and not Path(reference).exists():
        known = image_names.read_name(pool, reference)
        if known is not None and known.arch in {"", arch}:
            if bases.is_complete(pool, bases.name_for(known.digest)):
                return known
            raise NotFoundError(
                f"the image '{reference}' is not in the pool '{pool.name}' any more",
                hint=f"get it again, for example by `vmctl image pull {reference}`",
            )
        source = _in_catalogue(reference, arch)
    elif is_url:
        source = _source(reference, None)
    else:
        with reporter.phase("image") as phase:
            return as_qcow2(inspect(reference, phase=phase), phase=phase)
    with reporter.phase("image") as phase:
        image, _fetched = _acquire(source, phase)
        return as_qcow2(image, phase=phase)


def _in_catalogue(reference: str, arch: str) -> Source:
    from vmctl.imaging.catalogue import Catalogue  # noqa: PLC0415 - see above

    try:
        return Catalogue().find(reference, arch).source
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no image {reference!r}: no file, no name in the pool, and none in the "
            "catalogue",
            hint=error.hint,
        ) from error
