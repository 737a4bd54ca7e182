"""Images: from anywhere into the pool, each stored once, under a name, and out again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vmctl import bases
from vmctl.errors import ConflictError, NotFoundError
from vmctl.hypervisor import image_names
from vmctl.hypervisor.connection import Connection
from vmctl.hypervisor.image_names import ImageName
from vmctl.hypervisor.pools import Pool, open_pool
from vmctl.imaging.conversion import as_qcow2
from vmctl.imaging.inspection import Image, inspect
from vmctl.imaging.references import checked_name, digest_in, is_url, name_of, source_of
from vmctl.keeping import (
    bring_in,
    forget_names_of_nothing,
    is_being_uploaded,
    take_out,
)
from vmctl.progress import ProgressCallback, Reporter
from vmctl.spec.names import checked_tenant
from vmctl.stored_images import GivenName, ImageInfo, list_images

if TYPE_CHECKING:
    # What fetches is loaded when something is fetched: TLS and HTTP take their time.
    from vmctl.imaging.catalogue import Entry
    from vmctl.imaging.pruning import CachedFile

__all__ = ["GivenName", "ImageInfo", "Images"]


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
        tenant: str = "",
        progress: ProgressCallback | None = None,
    ) -> ImageInfo:
        """Fetch an image, verify it, and keep it in the pool under a name.

        Args:
            reference: A name of the catalogue, or a URL.
            sha256: Its checksum, SHA-256 or SHA-512, before it is unpacked; for a URL.
            name: What to call it; the catalogue's name, or the end of the URL.
            arch: The guests' architecture, for a name of the catalogue.
            unverified: That it is wanted although nothing says what it has to be.
            tenant: Whose it is; everybody's when not given.
            progress: Told of the phases ``image`` and ``upload``.

        Raises:
            NotFoundError: The catalogue has no such name.
            ImageError: It can't be had, is not what its checksum says, or is not fit to be used.
            ResourceError: There is no room for it.
        """
        from vmctl.imaging.acquiring import acquire  # noqa: PLC0415 - see above
        from vmctl.imaging.catalogue import Catalogue  # noqa: PLC0415

        entry: Entry | None = None
        if is_url(reference):
            source = source_of(reference, sha256, unverified=unverified)
        else:
            entry = Catalogue().find(reference, arch)
            source = entry.source
            if sha256 is not None:
                source = source_of(entry.url, sha256)
        called = self._called(name or (entry.name if entry else name_of(source.url)), tenant)
        reporter = Reporter(called, progress)
        with reporter.phase("image") as phase:
            image, fetched = acquire(source, phase=phase)
        return self._keep(
            image,
            called,
            reporter,
            source=fetched.url,
            verified_by=fetched.verified_by,
            tenant=tenant,
            user=(entry.user or "") if entry else "",
            os=(entry.os or "") if entry else "",
            arch=entry.arch if entry else "",
            firmware=entry.firmware if entry else "",
        )

    def import_file(
        self,
        path: str | os.PathLike[str],
        *,
        name: str | None = None,
        format: str | None = None,  # noqa: A002 - the field's own word
        tenant: str = "",
        progress: ProgressCallback | None = None,
    ) -> ImageInfo:
        """Keep a local image file in the pool under a name.

        Args:
            path: A file of any format that vmctl takes in.
            name: What to call it; the file's name without its ending.
            format: What it is declared to be; a raw disk without partitions must be.
            tenant: Whose it is; everybody's when not given.
            progress: Told of the phases ``image`` and ``upload``.

        Raises:
            NotFoundError: There is no such file.
            ImageError: It is not fit to be used.
            ResourceError: There is no room for it.
        """
        file = Path(path)
        called = self._called(name or name_of(file.name), tenant)
        reporter = Reporter(called, progress)
        with reporter.phase("image") as phase:
            image = as_qcow2(inspect(file, format=format, phase=phase), phase=phase)
        return self._keep(image, called, reporter, source=file.name, verified_by="", tenant=tenant)

    def build(
        self,
        recipe: str,
        *,
        name: str | None = None,
        packages: Sequence[str] = (),
        offline: Sequence[str] = (),
        mirror: str | Sequence[str] = (),
        tenant: str = "",
        progress: ProgressCallback | None = None,
    ) -> ImageInfo:
        """Build an image from a distribution's packages, and keep it in the pool under a name.

        Args:
            recipe: One of `vmctl.imaging.build.recipes`: ``debian-12``.
            name: What to call it; the recipe's name.
            packages: Packages to install beside the recipe's own.
            offline: Packages to put into it uninstalled, for guests without a network.
            mirror: The mirrors to take; those of this machine by default.
            tenant: Whose it is; everybody's when not given.
            progress: Told of the phases ``build`` and ``upload``.

        Raises:
            NotFoundError: There is no such recipe.
            PermissionDeniedError: This user is not root.
            UnsupportedError: This machine lacks a tool for it.
            ImageError: The building failed.
        """
        from vmctl.imaging.build import build  # noqa: PLC0415 - few build

        called = self._called(name or recipe, tenant)
        reporter = Reporter(called, progress)
        with reporter.phase("build") as phase:
            path = build(recipe, packages=packages, offline=offline, mirror=mirror, phase=phase)
        with reporter.phase("image") as phase:
            image = inspect(path, format="qcow2", phase=phase)
        return self._keep(
            image,
            called,
            reporter,
            source="built here",
            verified_by="apt",
            tenant=tenant,
            os=recipe.replace("-", ""),
            arch="x86_64",
            firmware="bios",
        )

    def _called(self, name: str, tenant: str) -> str:
        """Return the name, which has to be free for this tenant; before anything is fetched."""
        if tenant:
            checked_tenant(tenant)
        image_names.refuse_anothers(self._open(), checked_name(name), tenant)
        return name

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
            bring_in(pool, image, entry, phase)
        return self.info(name)

    # -- there

    def list(self, *, tenant: str | None = None) -> Sequence[ImageInfo]:
        """Return the images of the pool, sorted by name.

        Args:
            tenant: Only those that a machine of this tenant may use by a name: its own, and
                everybody's.
        """
        found = list_images(self._open())
        if tenant is None:
            return found
        return [
            image for image in found if any(known.tenant in {"", tenant} for known in image.names)
        ]

    def info(self, reference: str) -> ImageInfo:
        """Return one image, by its name or the beginning of its digest.

        Raises:
            NotFoundError: There is none.
            ConflictError: Several digests begin so.
        """
        everything = self.list()
        found = [image for image in everything if image.is_called(reference)]
        digest = digest_in(reference)
        if not found and digest is not None:
            found = [image for image in everything if image.digest.startswith(digest)]
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
        if len(found.names) > 1 and found.is_called(reference):
            image_names.remove_name(pool, reference)
            return found
        called = [entry.name for entry in found.names]
        if not take_out(pool, found.digest, called):
            users = [str(user) for user in self.info(found.digest).used_by]
            raise ConflictError(
                f"the image '{reference}' is in use",
                details="\n".join(users or ["somebody is bringing it in right now"]),
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
            forget_names_of_nothing(pool, {image.digest for image in found})
        return [
            image
            for image in found
            if not image.used_by
            and (everything or not image.names)
            and not is_being_uploaded(pool, image.digest)
            and (dry_run or take_out(pool, image.digest, [entry.name for entry in image.names]))
        ]

    @staticmethod
    def prune_cache(*, dry_run: bool = False) -> Sequence[CachedFile]:
        """Remove what fetching and converting left in this machine's caches; no host is needed.

        Args:
            dry_run: Only look.

        Returns:
            What was, or would be, removed, with its size.
        """
        from vmctl.imaging.pruning import prune_cache  # noqa: PLC0415 - few prune

        return prune_cache(dry_run=dry_run)
