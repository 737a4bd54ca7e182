"""What the user chose: by a flag, in the environment, in the configuration file, or not at all."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from vmctl.errors import UsageError

__all__ = ["ACCELERATORS", "FORMATS", "Settings", "config_path", "load_settings"]

FORMATS = ("table", "json", "yaml")
ACCELERATORS = ("auto", "kvm", "tcg")

_VARIABLES = {
    "uri": "VMCTL_URI",
    "format": "VMCTL_FORMAT",
    "pool": "VMCTL_POOL",
    "accel": "VMCTL_ACCEL",
}
_CHOICES = {"format": FORMATS, "accel": ACCELERATORS}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The choices that hold for every command.

    Attributes:
        uri: The host; None for the one that the library takes by itself.
        format: ``table``, ``json`` or ``yaml``.
        pool: The storage pool for new volumes; None for the library's.
        accel: The accelerator for specs that leave it open; None for no wish.
    """

    uri: str | None = None
    format: str = "table"
    pool: str | None = None
    accel: str | None = None


def config_path() -> Path:
    """Return where the configuration file is looked for."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "vmctl" / "config.toml"


def load_settings(flags: dict[str, str | None]) -> Settings:
    """Put the settings together: flag, environment, configuration file, default.

    Args:
        flags: What was given on the command line, by the setting's name.

    Raises:
        UsageError: A value or a key is unknown, or the file can't be read.
    """
    chosen: dict[str, str] = _from_file(config_path())
    for name, variable in _VARIABLES.items():
        if text := os.environ.get(variable):
            _check(name, text, f"the variable {variable}")
            chosen[name] = text
    chosen |= {name: text for name, text in flags.items() if text is not None}
    return Settings(
        uri=chosen.get("uri"),
        format=chosen.get("format", "table"),
        pool=chosen.get("pool"),
        accel=chosen.get("accel"),
    )


def _from_file(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"the configuration file {path} can't be read: {why}",
            hint="make it a readable file in UTF-8, or move it away",
        ) from error
    import tomllib  # noqa: PLC0415 - only where there is a file

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(
            f"the configuration file {path} is not valid TOML: {error}",
            hint='write a line for each setting, like: uri = "qemu:///system"',
        ) from error
    for name, value in data.items():
        if name not in _VARIABLES:
            near = difflib.get_close_matches(name, _VARIABLES, n=1)
            raise UsageError(
                f"{path}: there is no setting '{name}'",
                hint=f"did you mean '{near[0]}'?"
                if near
                else f"the settings are {', '.join(_VARIABLES)}",
            )
        if not isinstance(value, str):
            raise UsageError(f"{path}: the setting '{name}' must be text", hint="put it in quotes")
        _check(name, value, f"{path}: the setting '{name}'")
    return data


def _check(name: str, text: str, what: str) -> None:
    choices = _CHOICES.get(name)
    if choices is not None and text not in choices:
        raise UsageError(
            f"{what} is {text!r}", hint=f"it can be {', '.join(choices[:-1])} or {choices[-1]}"
        )
