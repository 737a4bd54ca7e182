"""Unpack Debian packages into a folder with mmdebstrap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vmctl.imaging.build.sources import host_settings
from vmctl.imaging.build.tools import run

__all__ = ["bootstrap"]

_SOURCES = Path("etc/apt/sources.list")


def bootstrap(
    folder: Path,
    suite: str,
    *,
    variant: str,
    packages: Sequence[str],
    sources: Sequence[str] = (),
    options: Sequence[str] = (),
) -> list[str]:
    """Make a Debian tree in `folder`, which has no apt sources then.

    Args:
        folder: The folder, which is made; its parent is used for temporary files.
        suite: The release, as the archive calls it.
        variant: mmdebstrap's.
        packages: What is installed, or unpacked, with what that needs.
        sources: Where packages come from; mmdebstrap's own default mirror where there are none.
        options: Further options of mmdebstrap's.

    Returns:
        The sources that were used.

    Raises:
        ImageError: mmdebstrap failed.
        ResourceError: The file system is full.
    """
    settings = folder.parent / "apt.conf"
    # Not as arguments: the address of a proxy may have a password in it.
    settings.touch(mode=0o600)
    settings.write_text("".join(f"{line}\n" for line in host_settings()))
    run(
        [
            "mmdebstrap",
            "--mode=root",
            f"--variant={variant}",
            "--architectures=amd64",
            "--components=main",
            f"--include={','.join(packages)}",
            *([f"--aptopt={settings}"] if settings.stat().st_size else []),
            *options,
            suite,
            folder,
            *(["-"] if sources else []),
        ],
        stdin="".join(f"{line}\n" for line in sources),
        # Whatever is left of it when it is killed lies where the next builder tidies up.
        environment={"TMPDIR": str(folder.parent)},
        # It mounts the host's /dev into the tree.
        confined=True,
        hint=f"see whether the mirror can be reached and has {suite} and all of these packages; "
        "another one can be named",
    )
    # How this host reaches its mirror is nobody's business in the guest.
    (folder / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    written = folder / _SOURCES
    lines = written.read_text().splitlines() if written.exists() else []
    written.unlink(missing_ok=True)
    return list(sources) or [line for line in lines if line.startswith("deb ")]
