"""Keys: the guest's own, made before it boots, and the client's, made once."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
)

from vmctl.errors import VmctlError

__all__ = ["KeyPair", "client_key_path", "make_key", "own_key"]


@dataclass(frozen=True)
class KeyPair:
    """An Ed25519 key pair in OpenSSH's formats. The private half is never printed."""

    private: str = field(repr=False)
    public: str


def make_key() -> KeyPair:
    """Return a new key pair."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return KeyPair(private.decode("ascii"), public.decode("ascii"))


def client_key_path() -> Path:
    """Return where this user's own key lies: ``VMCTL_SSH_KEY``, else among vmctl's data."""
    if path := os.environ.get("VMCTL_SSH_KEY"):
        return Path(path).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "vmctl" / "id_ed25519"


def own_key() -> KeyPair:
    """Return this user's key pair; made at first use, readable by this user only.

    Raises:
        VmctlError: It can't be read or written.
    """
    path = client_key_path()
    try:
        if not path.exists():
            _write_new(path)
        private = _in_openssh_format(path.read_text(encoding="ascii"))
        public = path.with_name(path.name + ".pub").read_text(encoding="ascii").strip()
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise VmctlError(
            f"can't use the SSH key {path}",
            details=str(error),
            hint="set VMCTL_SSH_KEY to a private key without a passphrase, with its .pub beside it",
        ) from error
    return KeyPair(private, public)


def _in_openssh_format(private: str) -> str:
    """Return a private key of any kind and format in the one format that all else here takes.

    Raises:
        ValueError: It is no private key, or of a kind that SSH has no use for.
        TypeError: It has a passphrase.
        UnsupportedAlgorithm: It is of an unknown kind.
    """
    if "OPENSSH" in private[:40]:
        load_ssh_private_key(private.encode("ascii"), None)
        return private
    key = load_pem_private_key(private.encode("ascii"), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode("ascii")


def _write_new(path: Path) -> None:
    """Put a new pair in place; of several that try at once, one wins and all use its pair."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pair = make_key()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        private = Path(folder) / "key"
        public = Path(folder) / "key.pub"
        private.touch(mode=0o600)
        private.write_text(pair.private, encoding="ascii")
        public.write_text(f"{pair.public} vmctl\n", encoding="ascii")
        lock = path.parent / f".{path.name}.lock"
        with lock.open("w") as handle:
            _lock(handle.fileno())
            if not path.exists():
                # The private half last: whoever sees it finds the public one there as well.
                public.replace(path.with_name(path.name + ".pub"))
                private.replace(path)


def _lock(descriptor: int) -> None:
    import fcntl  # noqa: PLC0415 - only when a key is made

    fcntl.flock(descriptor, fcntl.LOCK_EX)
