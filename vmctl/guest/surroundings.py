"""What a command finds around it in the guest: variables, folder, user.

The values of variables are no business of the guest's other users, and a command line is: whoever
looks at the list of processes can read it. So they go in by stdin, before what the command itself
reads. ``read`` of a POSIX shell takes no byte more than its line
(https://pubs.opengroup.org/onlinepubs/9699919799/utilities/read.html), and a server's ``AcceptEnv``
isn't needed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Literal

from vmctl.errors import UsageError

__all__ = ["surround"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}\$?")
# Ends with the user's own shell, which the line is for.
_FOLDER = 'cd -- "$2" || exit 126; '
_VARIABLES = 'IFS= read -r VMCTL_E; eval "$VMCTL_E"; unset VMCTL_E; '
_COMMAND = 'exec "${SHELL:-/bin/sh}" -c "$1"'


def surround(
    line: str,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
    via: Literal["ssh", "agent"] = "ssh",
) -> tuple[str, bytes]:
    """Return the line that runs ``line`` with all of that around it.

    Args:
        line: A line for the guest's shell.
        env: Variables.
        cwd: The folder to run it in; a relative one is below the home folder. When it can't be
            entered the status is 126.
        user: The user to run it as: by sudo over SSH, by su through the agent, which is root.
        via: The way that it will go.

    Returns:
        The line, and what its stdin must begin with.

    Raises:
        UsageError: A name is no name, or a value can't be one.
    """
    if not env and cwd is None and user is None:
        return line, b""
    script = _COMMAND
    preamble = b""
    if env:
        script = _VARIABLES + script
        preamble = _exports(env)
    if cwd is not None:
        script = _FOLDER + script
    words = ["/bin/sh", "-c", script, "sh", line]
    if cwd is not None:
        words.append(_folder(cwd))
    if user is not None:
        words = _as_user(user, words, via)
    return f"exec {shlex.join(words)}", preamble


def _as_user(user: str, words: list[str], via: str) -> list[str]:
    if not _USER.fullmatch(user):
        raise UsageError(
            f"{user!r} is no user's name", hint="give the name as it stands in /etc/passwd"
        )
    if via == "agent":
        return ["su", "-s", "/bin/sh", user, "-c", f"exec {shlex.join(words)}"]
    return ["sudo", "-n", "-H", "-u", user, "--", *words]


def _folder(cwd: str) -> str:
    if not cwd or "\0" in cwd:
        raise UsageError(f"{cwd!r} is no folder", hint="give a path in the guest")
    # `cd -` and CDPATH are for people.
    return cwd if cwd.startswith("/") else f"./{cwd}"


def _exports(env: Mapping[str, str]) -> bytes:
    """Return one line of assignments; a newline in a value is written as an escape."""
    parts = []
    for name, value in env.items():
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} is no name of a variable",
                hint="letters, digits and '_', the first no digit",
            )
        if "\0" in value:
            raise UsageError(
                f"the value of {name} has a NUL in it, which no variable can have",
                hint="pass it by stdin",
            )
        if "\n" in value:
            escaped = value.replace("\\", "\\\\").replace("\n", "\\n")
            # The dot keeps newlines at the end, which a substitution would drop.
            parts.append(f"{name}=$(printf %b. {shlex.quote(escaped)}); {name}=${{{name}%.}}")
        else:
            parts.append(f"{name}={shlex.quote(value)}")
        parts.append(f"export {name}")
    return "; ".join(parts).encode("utf-8", "surrogateescape") + b"\n"
