"""Files of the client that a spec names, and its users' public keys read from them."""

from __future__ import annotations

from pathlib import Path

from vmctl.errors import NotFoundError, SpecError, SpecProblem, UsageError
from vmctl.spec import VMSpec

__all__ = ["refuse_unreadable", "unreadable", "with_key_files"]


def with_key_files(spec: VMSpec) -> VMSpec:
    """Return the spec with the public keys that its users' `ssh_key_files` name read in.

    Raises:
        SpecError: A file can't be read, or is a private key.
    """
    if spec.cloud_init is None:
        return spec
    users = []
    for number, user in enumerate(spec.cloud_init.users):
        read = tuple(
            line
            for index, name in enumerate(user.ssh_key_files)
            for line in _key_lines(name, f"cloud_init.users[{number}].ssh_key_files[{index}]")
        )
        users.append(
            user.model_copy(
                update={
                    "ssh_authorized_keys": user.ssh_authorized_keys + read,
                    "ssh_key_files": (),
                }
            )
        )
    cloud_init = spec.cloud_init.model_copy(update={"users": tuple(users)})
    return spec.model_copy(update={"cloud_init": cloud_init})


def _key_lines(name: str, field: str) -> list[str]:
    try:
        lines = Path(name).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(field, name, error) from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if any("PRIVATE KEY" in line for line in keys):
        problem = SpecProblem(field, f"{name!r} is a private key; name the .pub file beside it")
        raise SpecError(
            "the spec names a private key where a public one belongs",
            problems=[problem],
            hint="the public half lies in the file with .pub at its end",
        )
    return keys


def refuse_unreadable(path: Path) -> None:
    """Refuse a file of the client that was named in a call, and not in a spec.

    Raises:
        NotFoundError: It isn't there.
        UsageError: It can't be read.
    """
    try:
        with path.open("rb"):
            return
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no file {path}", hint="check the path; it is one of this machine's"
        ) from error
    except OSError as error:
        raise UsageError(
            f"the file {path} can't be read: {error.strerror}",
            hint="check the path and its permissions",
        ) from error


def unreadable(field: str, name: str, error: OSError | UnicodeDecodeError) -> SpecError:
    """Return the error for a file that a field of the spec names and that can't be read."""
    why = getattr(error, "strerror", None) or str(error)
    return SpecError(
        "the spec names a file that can't be read",
        problems=[SpecProblem(field, f"{name!r}: {why}")],
        hint="paths are those of the machine that vmctl runs on",
    )
