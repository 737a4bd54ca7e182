"""Keys."""

from __future__ import annotations

import stat
import subprocess
import threading
from pathlib import Path

import pytest

from vmctl.errors import VmctlError
from vmctl.guest.identity import make_key, own_key
from vmctl.guest.ssh import _private_key


def test_a_key_never_shows_its_private_half() -> None:
    key = make_key()
    assert "PRIVATE" in key.private
    assert "PRIVATE" not in repr(key)
    assert key.public.startswith("ssh-ed25519 ")


def test_openssh_takes_the_key(tmp_path: Path) -> None:
    key = make_key()
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text(key.private)
    done = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[:2] == key.public.split()[:2]


def test_the_clients_key_is_made_once_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "id"
    monkeypatch.setenv("VMCTL_SSH_KEY", str(path))
    results = []
    threads = [threading.Thread(target=lambda: results.append(own_key())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.private for key in results}) == 1
    assert len({key.public for key in results}) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".id.lock", "id", "id.pub"]


def test_a_key_that_cannot_be_read_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "id"
    path.write_text("x")
    monkeypatch.setenv("VMCTL_SSH_KEY", str(path))
    with pytest.raises(VmctlError, match="can't use the SSH key") as caught:
        own_key()
    assert caught.value.hint


@pytest.mark.parametrize(
    "kind",
    [
        ("ed25519",),
        ("ecdsa",),
        ("rsa", "-b", "2048"),
        ("rsa", "-b", "2048", "-m", "PEM"),
        ("rsa", "-b", "2048", "-m", "PKCS8"),
        ("ecdsa", "-m", "PKCS8"),
    ],
)
def test_a_key_of_any_kind_can_be_brought(
    kind: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", *kind, "-N", "", "-f", str(path)], check=True)
    monkeypatch.setenv("VMCTL_SSH_KEY", str(path))
    key = own_key()
    assert _private_key(key.private).get_base64() == key.public.split()[1]


def test_a_key_with_a_passphrase_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, options in enumerate(((), ("-m", "PEM"))):
        path = tmp_path / f"id{number}"
        command = ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "secret", *options]
        subprocess.run([*command, "-f", str(path)], check=True)
        monkeypatch.setenv("VMCTL_SSH_KEY", str(path))
        with pytest.raises(VmctlError, match="can't use the SSH key") as caught:
            own_key()
        assert "without a passphrase" in caught.value.hint
