"""Compose a guest's file tree from folders."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["digest_of", "lines_of", "overlay", "pick"]


def lines_of(path: Path) -> list[str]:
    """Return a list file's entries, without comments and empty lines."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def overlay(source: Path, target: Path) -> None:
    """Copy the tree `source` over `target`, owned by root.

    A repository keeps of a file's mode only whether it is executable, and how open the rest is
    depends on the umask of whoever checked it out: so the modes are 0755 and 0644.
    """
    for path in _walk(source):
        made = target / path.relative_to(source)
        if path.is_symlink():
            made.unlink(missing_ok=True)
            made.symlink_to(path.readlink())
        elif path.is_dir():
            made.mkdir(exist_ok=True)
        else:
            shutil.copyfile(path, made)
            made.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def pick(names: list[str], source: Path, target: Path) -> None:
    """Copy absolute paths `names` from the tree `source` into `target`, folders with content."""
    for name in names:
        path = source / name.lstrip("/")
        made = target / name.lstrip("/")
        made.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, made, symlinks=True, dirs_exist_ok=True)
        elif not os.path.lexists(made):
            shutil.copy2(path, made, follow_symlinks=False)


def digest_of(folders: Iterable[Path]) -> str:
    """Return the SHA-256 of what `overlay` would copy from `folders`: names, links and content."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in _walk(folder):
            if path.is_dir() and not path.is_symlink():
                continue
            link = path.is_symlink()
            content = os.fsencode(path.readlink()) if link else path.read_bytes()
            executable = bool(path.lstat().st_mode & 0o100)
            head = f"{path.relative_to(folder)}\0{executable}\0{link}\0{len(content)}\0"
            digest.update(head.encode() + content)
    return digest.hexdigest()


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts)
