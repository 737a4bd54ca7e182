"""The page docs/reference/cli.md and the command line say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from vmctl.cli.root import root
from vmctl.cli.settings import _VARIABLES

_PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=group.name)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from _commands(found, f"{path} {name}")
        else:
            yield f"{path} {name}", found


_COMMANDS = dict(_commands(root, "vmctl"))
_SECTIONS = dict(re.findall(r"^### (vmctl .+)\n((?:(?!^#).*\n)*)", _PAGE, flags=re.MULTILINE))


def test_every_command_is_documented_and_every_documented_one_exists() -> None:
    assert set(_SECTIONS) == set(_COMMANDS)


def test_every_option_is_documented_where_its_command_is() -> None:
    for path, command in _COMMANDS.items():
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.opts[0] in _SECTIONS[path], (path, option.opts)


def test_every_documented_option_exists() -> None:
    general = {name for option in root.params for name in option.opts} | {"--help"}
    for path, text in _SECTIONS.items():
        options = _COMMANDS[path].params
        # The second ones are those that say no.
        known = {name for one in options for name in (*one.opts, *one.secondary_opts)} | general
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)) <= known, path


def test_every_global_option_and_variable_is_documented() -> None:
    general = _PAGE.partition("## Machines")[0]
    for option in root.params:
        assert all(f"`{name}" in general for name in option.opts)
    for variable in _VARIABLES.values():
        assert variable in general


def test_every_command_says_what_it_is_for() -> None:
    for path, command in _COMMANDS.items():
        assert command.help, path
        assert command.get_short_help_str(limit=100)[-1] == ".", path
