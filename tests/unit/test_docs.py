"""The documentation: specs are valid, commands parse, programs type-check, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import yaml
from doc_blocks import ROOT, Block, anchors, blocks, links, pages

import vmctl
from vmctl.cli.context import App
from vmctl.cli.root import root
from vmctl.spec.document import SpecDocument

PAGES = pages()
ALL = [block for page in PAGES for block in blocks(page)]
CONSOLE = [block for block in ALL if block.language == "console"]
PYTHON = [block for block in ALL if block.language == "python"]
YAML = [block for block in ALL if block.language == "yaml"]
COMMANDS = [(block, command) for block in CONSOLE for command in block.commands()]

# Commands that are not vmctl's, and what else shows that they work.
ELSEWHERE = {
    "python3 -m venv .venv": "scripts/lib/setup.sh",
    ".venv/bin/pip install '.[cli]'": "test_packaging.py",
    ".venv/bin/python -m pytest tests/unit/render --rewrite-golden": "tests/conftest.py",
    'export PATH="$PWD/.venv/bin:$PATH"': "the shell",
    "export VMCTL_URI=private:demo": "the shell",
    'cp "$(scripts/guest-image debian-12)" debian-12.qcow2': "scripts/test integration",
}
# OpenSSH's own programs, by the lines that a vmctl command before them has written.
OPENSSH = ("ssh", "scp")
SCRIPTS = ("scripts/quickstart", "scripts/test")
COMMENT = re.compile(r"\s+# .*$")


def parse(words: list[str]) -> None:
    """Parse a command line down to the last command, and run nothing."""
    command: click.Command = root
    app = App()
    context = command.make_context("vmctl", list(words), obj=app)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert found is not None
        command = found
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize(("block", "command"), COMMANDS, ids=str)
def test_command_is_one(block: Block, command: str) -> None:
    command = COMMENT.sub("", command)
    if command in ELSEWHERE:
        return
    words = shlex.split(re.sub(r"^([A-Z_]+=\S+ )+", "", command))
    if words[0] in SCRIPTS:
        subprocess.run(
            ["bash", str(ROOT / words[0]), *words[1:], "--help"], check=True, capture_output=True
        )
        return
    if words[0] in OPENSSH:
        assert words[1] == "-F", f"{block}: this is not about a guest: {command}"
        return
    assert words[0] == "vmctl", f"{block}: nothing tests this command: {command}"
    if words[1:] == ["--version"]:
        return
    # A pipe's ends are both commands of ours, and what goes into a file is the last one's output.
    bare = re.sub(r"^([A-Z_]+=\S+ )+", "", re.sub(r" > \S+$", "", command))
    for part in bare.split(" | "):
        assert part.startswith("vmctl "), f"{block}: nothing tests this command: {part}"
        parse(shlex.split(part)[1:])


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_block_has_commands(block: Block) -> None:
    assert block.commands(), "commands begin with '$ '; a block of output alone is of no language"


@pytest.mark.parametrize("block", YAML, ids=str)
def test_spec_is_valid(block: Block) -> None:
    written = yaml.safe_load(block.text).keys()
    kind: type[SpecDocument] = vmctl.VMSpec
    if "type" in written:
        kind = vmctl.PoolSpec
    elif "rules" in written:
        kind = vmctl.SecurityGroupSpec
    elif written & {"ipv4", "ipv6"}:
        kind = vmctl.NetworkSpec
    spec = kind.from_yaml(block.text, source=str(block))
    assert kind.from_yaml(spec.to_yaml()) == spec


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*.yaml")), ids=lambda p: p.name)
def test_spec_of_a_script_is_valid(path: Path) -> None:
    vmctl.VMSpec.load(path)


def test_programs_fit_the_interface(tmp_path: Path) -> None:
    names = []
    for number, block in enumerate(PYTHON):
        name = tmp_path / f"example_{number}.py"
        name.write_text(f"# {block}\n{block.text}")
        names.append(str(name))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml", *names],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_that_commands_name_are_shown() -> None:
    for page in PAGES:
        shown = {block.file for block in blocks(page, "yaml")}
        for block in blocks(page, "console"):
            text = "\n".join(block.commands())
            named = set(re.findall(r"[\w-]+\.yaml", text))
            # What a command writes, the next one may read.
            shown |= set(re.findall(r" > ([\w-]+\.yaml)", text))
            # A page may go on with the spec of the page before it, which it links to or shows.
            assert named <= shown | {"web.yaml"}, str(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = page if not path else (page.parent / path).resolve()
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    assert {page for page in PAGES if ROOT / "docs" in page.parents} == linked | {index}


def test_python_reference_has_every_public_name() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", _text("docs/reference/python.md"), re.MULTILINE)
    assert sorted(rows) == sorted(vmctl.__all__)


def test_python_reference_has_the_exit_codes() -> None:
    rows = re.findall(
        r"^\| `(\w+Error)` \| (\d) \|", _text("docs/reference/python.md"), re.MULTILINE
    )
    assert {name: int(code) for name, code in rows} == {
        name: getattr(vmctl, name).exit_code for name in vmctl.__all__ if name.endswith("Error")
    }


def test_readme_has_every_dependency() -> None:
    project = tomllib.loads(_text("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cli"]]
    after = _text("README.md").partition("## What it depends on")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| \S", after, re.MULTILINE)
    assert sorted(rows) == sorted(re.split(r"[<>=]", entry)[0] for entry in wanted)


def test_package_lists_give_a_reason_for_each() -> None:
    for line in _text("scripts/packages.txt").splitlines():
        if line and not line.startswith(("#", " ")):
            assert re.fullmatch(r"[a-z0-9.+-]+( +# \S.*)?", line), line


def test_blocks_are_of_known_kinds() -> None:
    known = {"", "console", "python", "yaml", "mermaid", "text", "toml", "json", "xml", "jinja"}
    assert {block.language for block in ALL} <= known
    for block in ALL:
        if block.file:
            assert block.language == "yaml"
            assert isinstance(yaml.safe_load(block.text), dict)


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
