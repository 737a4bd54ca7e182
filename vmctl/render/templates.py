"""The templates: where they are found, and what a value in them may do.

A template decides the structure of a document; what a user typed is a value in it. XML templates
escape every value. The seed's templates write every value as JSON, which YAML reads as well.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from vmctl.errors import SpecError, UsageError

__all__ = ["Templates", "to_json"]

_DOMAIN = "domain_templates"
_SEED = "cloud-init"
_NOT_IN_XML = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")
_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)
_PACKAGE = Path(__file__).resolve().parent.parent


class Templates:
    """The templates, with the chain of folders in which a single one can be replaced.

    Each folder may have ``domain_templates/`` and ``cloud-init/`` in it, with files of the same
    names as those that vmctl brings. The first folder that has a file wins: those given here, then
    ``VMCTL_TEMPLATE_PATH``, the user's configuration folder, ``/etc/vmctl``, and vmctl's own.

    An object reads each file once. It is safe to use from several threads.

    Args:
        paths: Folders that come before all others.
    """

    def __init__(self, *paths: str | Path) -> None:
        folders = [Path(path) for path in paths]
        missing = next((folder for folder in folders if not folder.is_dir()), None)
        if missing is not None:
            raise UsageError(
                f"there is no folder {missing} for templates",
                hint=f"it should hold {_DOMAIN}/ or {_SEED}/, each with files to replace",
            )
        self.folders = (*folders, *_standard_folders())

    @classmethod
    def default(cls) -> Templates:
        """The templates without any folder of the caller's; read once for each environment."""
        return _shared(_standard_folders())

    @cached_property
    def _xml(self) -> jinja2.Environment:
        environment = _environment([folder / _DOMAIN for folder in self.folders], _xml_value)
        environment.filters["on_off"] = lambda value: "on" if value else "off"
        return environment

    @cached_property
    def _seed(self) -> jinja2.Environment:
        environment = _environment([folder / _SEED for folder in self.folders], _seed_value)
        environment.filters["json"] = lambda value: Markup(to_json(value))  # noqa: S704 - not HTML
        environment.filters["key"] = _key
        return environment

    def xml(self, name: str, values: Mapping[str, Any]) -> str:
        """Render one of ``domain_templates/``; values are escaped.

        Raises:
            SpecError: A value has a character that XML can't hold.
            UsageError: A template that somebody replaced is missing or wrong.
        """
        return _render(self._xml, name, values)

    def seed(self, name: str, values: Mapping[str, Any]) -> str:
        """Render one of ``cloud-init/``; a value gets there through the filter ``json`` only.

        Raises:
            UsageError: A template that somebody replaced is missing or wrong.
        """
        return _render(self._seed, name, values)


@lru_cache(maxsize=8)
def _shared(folders: tuple[Path, ...]) -> Templates:
    templates = Templates()
    templates.folders = folders
    return templates


def _standard_folders() -> tuple[Path, ...]:
    named = [
        Path(text) for text in os.environ.get("VMCTL_TEMPLATE_PATH", "").split(os.pathsep) if text
    ]
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    own = _PACKAGE / "_data"
    built_in = own if own.is_dir() else _PACKAGE.parent
    return (*named, Path(config).expanduser() / "vmctl", Path("/etc/vmctl"), built_in)


def _environment(folders: Sequence[Path], finalize: Any) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
        finalize=finalize,
    )


def _render(environment: jinja2.Environment, name: str, values: Mapping[str, Any]) -> str:
    try:
        return environment.get_template(name).render(values)
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(
            f"the template {error.filename or error.name} is wrong in line {error.lineno}: "
            f"{error.message}",
            hint="mend the template, or take it out of the folder to have vmctl's own",
        ) from None
    except jinja2.TemplateNotFound as error:
        raise UsageError(
            f"the template {error.name} is missing",
            hint="a template of your own includes it: put it beside that one",
        ) from None
    except jinja2.TemplateError as error:
        raise UsageError(
            f"the template {name}, or one that it includes, is wrong: {error.message}",
            hint="a template of your own may be older than this vmctl",
        ) from None


def _xml_value(value: Any) -> Any:
    """What ``{{ value }}`` writes: libvirt's yes and no, and nothing that XML can't hold."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        raise jinja2.TemplateRuntimeError("a value is not set")
    if isinstance(value, str) and not isinstance(value, Markup) and _NOT_IN_XML.search(value):
        raise SpecError(
            f"{value[:60]!a} has a control character, and can't be part of a domain",
            hint="use text on one line",
        )
    return value


def _seed_value(value: Any) -> Any:
    if isinstance(value, jinja2.Undefined | Markup):
        return value
    raise jinja2.TemplateRuntimeError("a value in a seed is written with the filter 'json'")


def to_json(value: object) -> str:
    """Write JSON that YAML reads as the same value.

    Beyond JSON's rules, everything outside of ASCII is escaped, but for characters above U+FFFF:
    JSON can write those as two escapes only, which YAML would read as two characters. DEL is
    escaped, for YAML does not allow it.

    Args:
        value: Text, numbers, booleans, None, and lists and mappings of them.
    """
    if isinstance(value, str):
        return '"' + "".join(_escaped(character) for character in value) + '"'
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{to_json(str(k))}: {to_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(to_json(item) for item in value) + "]"
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _key(name: str) -> Markup:
    if _PLAIN_KEY.fullmatch(name) is None:
        raise jinja2.TemplateRuntimeError(f"{name[:40]!r} can't be a key of a seed")
    return Markup(name)  # noqa: S704 - letters, digits, '-' and '_'


_SHORT_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escaped(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    code = ord(character)
    return character if 0x20 <= code < 0x7F or code > 0xFFFF else f"\\u{code:04x}"


def _float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"{value} has no form in JSON")
    mantissa, exponent, power = repr(value).partition("e")  # YAML 1.1 wants the point, and a sign
    if exponent:
        mantissa += "" if "." in mantissa else ".0"
        power = power if power[0] in "+-" else f"+{power}"
    return mantissa + exponent + power
