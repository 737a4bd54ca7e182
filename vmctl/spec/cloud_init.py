"""What cloud-init does in the guest, in cloud-init's own names.

Source: https://cloudinit.readthedocs.io/en/latest/reference/modules.html
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from vmctl.errors import SpecProblem
from vmctl.spec.base import SpecModel
from vmctl.spec.clock import TimeZone
from vmctl.spec.names import HostName, UserName
from vmctl.spec.raw import RawMapping
from vmctl.spec.text import GuestText, Line, LongLine, guest_text

__all__ = ["CloudInitSpec", "Command", "NtpSpec", "UserSpec", "WriteFileSpec"]

_HASH = re.compile(r"\$[A-Za-z0-9-]{1,16}\$[A-Za-z0-9./$=,+_-]{8,512}")
_KEY = re.compile(r"([^\r\n]* )?(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}( [^\r\n]*)?")
_MODE = re.compile(r"0?[0-7]{3,4}")


def _hashed(text: str) -> str:
    if _HASH.fullmatch(text) is None:
        raise ValueError(
            "is not a hashed password; make one with `openssl passwd -6` ($6$...), "
            "a password in the clear is never taken"
        )
    return text


def _public_key(text: str) -> str:
    if "PRIVATE KEY" in text:
        raise ValueError("is a private key; give the public one (the file that ends in .pub)")
    if _KEY.fullmatch(text.strip()) is None:
        raise ValueError("is not a public SSH key, such as 'ssh-ed25519 AAAA... name'")
    return text.strip()


def _permissions(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and _MODE.fullmatch(value) is None:
        raise ValueError(f"{value[:20]!r} is not a file mode; write it like '0644'")
    return value.zfill(4) if isinstance(value, str) else value


def _words(value: Any) -> Any:
    """`groups: a, b` is a list as well, as it is for cloud-init."""
    if isinstance(value, str):
        return tuple(word for word in re.split(r"[,\s]+", value) if word)
    return value


def _rules(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _command(value: Any) -> Any:
    if isinstance(value, str):
        words: tuple[Any, ...] = (value,)
    elif isinstance(value, list | tuple):
        words = tuple(str(word) if type(word) is int else word for word in value)
    else:
        raise ValueError("a command is a line for the shell, or a list of words")  # noqa: TRY004
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError("a command is a line for the shell, or a list of words in quotes")
    if not words[0].strip():
        raise ValueError("is an empty command")
    for word in words:
        guest_text(word)
    return value if isinstance(value, str) else words


Command = Annotated[
    str | tuple[str, ...], BeforeValidator(_command, json_schema_input_type=str | list[str | int])
]
"""A line for the shell, or a list of words that no shell sees."""

_PackageName = Annotated[Line, Field(pattern=r"^[A-Za-z0-9]")]
_GroupName = Annotated[str, Field(max_length=32, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]


class UserSpec(SpecModel):
    """A user of the guest. The first one is the user that vmctl logs in as."""

    short_form = "name"

    name: UserName
    """The login name."""
    gecos: Annotated[Line, Field(pattern=r"^[^:]+$")] | None = None
    """The person's name."""
    groups: Annotated[
        tuple[_GroupName, ...], BeforeValidator(_words, json_schema_input_type=str | list[str])
    ] = ()
    """Further groups: a list, or names with commas between them."""
    sudo: Annotated[
        tuple[Line, ...], BeforeValidator(_rules, json_schema_input_type=str | list[str])
    ] = ()
    """Rules for sudo (`ALL=(ALL) NOPASSWD:ALL`): one, or a list."""
    shell: Annotated[Line, Field(pattern=r"^/")] | None = None
    """The login shell."""
    ssh_authorized_keys: tuple[Annotated[LongLine, AfterValidator(_public_key)], ...] = ()
    """Public SSH keys that may log in."""
    ssh_key_files: tuple[Line, ...] = ()
    """Files with public SSH keys, on the machine that vmctl runs on."""
    hashed_passwd: Annotated[str, AfterValidator(_hashed)] | None = None
    """The hash of a password (`openssl passwd -6`)."""
    lock_passwd: bool | None = None
    """Whether the password is locked; true when there is no hashed_passwd."""


class WriteFileSpec(SpecModel):
    """A file to write in the guest."""

    path: Annotated[Line, Field(pattern=r"^/")]
    """Where, as an absolute path."""
    content: GuestText = ""
    """What is in it."""
    owner: Annotated[str, Field(max_length=65, pattern=r"^[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+)?$")] | (
        None
    ) = None
    """`user` or `user:group`; root when it is not given."""
    permissions: (
        Annotated[str, BeforeValidator(_permissions, json_schema_input_type=str | int)] | None
    ) = None
    """The file's mode, in octal digits (`'0644'`)."""
    encoding: Annotated[
        str, Field(pattern=r"^(b64|base64|gz|gzip|gz\+b64|gzip\+base64|text/plain)$")
    ] | (None) = None
    """How content is encoded: b64, gzip, gz+b64; plain text when it is not given."""
    append: bool = False
    """Whether to add to the file instead of replacing it."""
    defer: bool = False
    """Whether to write it only after users and packages are there."""


class NtpSpec(SpecModel):
    """Time servers."""

    enabled: bool = True
    """Whether a time service is set up."""
    servers: tuple[Line, ...] = ()
    """Names or addresses of servers."""
    pools: tuple[Line, ...] = ()
    """Names of pools."""


class CloudInitSpec(SpecModel):
    """What cloud-init does at the guest's first boot."""

    hostname: HostName | None = None
    """The guest's host name; made from the machine's name when it is not given."""
    fqdn: HostName | None = None
    """The full name, with the domain."""
    users: tuple[UserSpec, ...] = ()
    """Users; when there are none, a user `vmctl` with sudo and without a password is made."""
    ssh_pwauth: bool = False
    """Whether SSH takes passwords."""
    packages: tuple[_PackageName, ...] = ()
    """Packages to install."""
    package_update: bool | None = None
    """Whether the list of packages is fetched first; true when there are packages."""
    package_upgrade: bool = False
    """Whether all packages are upgraded."""
    write_files: tuple[WriteFileSpec, ...] = ()
    """Files to write."""
    runcmd: tuple[Command, ...] = ()
    """Commands to run once, at the end of the first boot."""
    bootcmd: tuple[Command, ...] = ()
    """Commands to run early in the first boot; later ones have no seed, and no cloud-init."""
    timezone: TimeZone | None = None
    """A name of the tz database: `Europe/Berlin`."""
    locale: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_.@-]+$")] | None = None
    """A locale: `de_DE.UTF-8`."""
    ntp: NtpSpec | None = None
    """Time servers."""
    network_config: RawMapping | None = None
    """A network configuration (version 2) that takes the place of the one made from the NICs."""
    user_data: RawMapping | None = None
    """More cloud-config, merged: lists are appended to, a field given above wins."""
    vendor_data: RawMapping | None = None
    """Vendor data, passed on as it is; cloud-init lets user data win over it."""

    def _problems(self) -> list[SpecProblem]:
        problems = self._user_problems()
        if self.network_config is not None:
            version = self.network_config.get("version")
            if version != 2:
                problems.append(SpecProblem("network_config.version", "must be 2"))
        if self.user_data is not None:
            problems.extend(_clear_passwords(self.user_data, "user_data"))
        if self.vendor_data is not None:
            problems.extend(_clear_passwords(self.vendor_data, "vendor_data"))
        return problems

    def _user_problems(self) -> list[SpecProblem]:
        names = [user.name for user in self.users]
        problems = [
            SpecProblem(f"users[{index}].name", f"{name} is listed twice")
            for index, name in enumerate(names)
            if name in names[:index]
        ]
        problems.extend(
            SpecProblem(f"users[{index}].lock_passwd", "needs a hashed_passwd beside it")
            for index, user in enumerate(self.users)
            if user.lock_passwd is False and user.hashed_passwd is None
        )
        return problems


_REFUSED = "is a password in the clear; use hashed_passwd"


def _clear_passwords(raw: dict[str, Any], where: str) -> list[SpecProblem]:
    """Find the places where cloud-init takes a password in the clear."""
    problems = []
    if "password" in raw and not _is_hash(raw["password"]):
        problems.append(SpecProblem(f"{where}.password", _REFUSED))
    users = raw.get("users")
    for index, user in enumerate(users if isinstance(users, list) else []):
        if isinstance(user, dict) and "plain_text_passwd" in user:
            problems.append(SpecProblem(f"{where}.users[{index}].plain_text_passwd", _REFUSED))
    chpasswd = raw.get("chpasswd")
    listed = chpasswd.get("users") if isinstance(chpasswd, dict) else None
    for index, user in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(user, dict) and "password" in user and not _is_hash(user["password"]):
            problems.append(SpecProblem(f"{where}.chpasswd.users[{index}].password", _REFUSED))
    if isinstance(chpasswd, dict) and chpasswd.get("list"):
        problems.append(
            SpecProblem(f"{where}.chpasswd.list", "may hold passwords in the clear; use users")
        )
    return problems


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None
