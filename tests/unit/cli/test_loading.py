"""What a command loads: whoever lists machines doesn't wait for what launches them."""

from __future__ import annotations

import subprocess
import sys

import pytest

SPECS = {"pydantic", "jinja2", "yaml", "pycdlib", "vmctl.spec", "vmctl.launch", "vmctl.devices"}
IMAGES = {"httpx", "zstandard", "oslo_utils", "vmctl.imaging"}
SSH = {"paramiko", "cryptography", "vmctl.guest.ssh"}
# What others load without need, and what takes its time.
NEVER = {"invoke", "unittest", "urllib.request", "http.client"}


def loaded_by(*words: str, status: int = 0) -> set[str]:
    """Return the modules that a command loads, with the packages that they are in."""
    code = (
        f"import sys\nsys.argv = ['vmctl', *{words!r}]\nfrom vmctl.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "present = (name for name, module in sys.modules.items() if module is not None)\n"
        "print('loaded', code or 0, *present)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    mark, ended, *names = done.stdout.splitlines()[-1].split()
    assert (mark, ended) == ("loaded", str(status)), done.stderr
    return {
        ".".join(parts[: count + 1])
        for parts in (name.split(".") for name in names)
        for count in range(len(parts))
    }


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("list",),
        ("list", "--format", "json"),
        ("info", "web"),
        ("stats",),
        ("pause", "web"),
        ("stop", "web", "--force", "--timeout", "0"),
        ("snapshot", "list", "web"),
        ("host", "list"),
        ("launch", "--help"),
    ],
    ids=" ".join,
)
def test_what_looks_at_machines_loads_nothing_to_make_or_enter_them(
    own: tuple[str, str], words: tuple[str, ...]
) -> None:
    assert loaded_by(*own, *words) & (SPECS | IMAGES | SSH | NEVER | {"asyncio"}) == set()


def test_gc_loads_what_removes_machines_alone(own: tuple[str, str]) -> None:
    loaded = loaded_by(*own, "gc")
    assert loaded & ((SPECS | IMAGES | SSH | NEVER) - {"vmctl.imaging"}) == set()


def test_what_lists_devices_loads_nothing_to_enter_a_machine(own: tuple[str, str]) -> None:
    loaded = loaded_by(*own, "disk", "list", "web")
    assert loaded & ((SSH | NEVER) - {"cryptography"}) == set()


def test_what_enters_a_machine_loads_nothing_to_make_one(own: tuple[str, str]) -> None:
    # The test driver has no agent either; what was tried before is loaded by then.
    loaded = loaded_by(*own, "exec", "web", "--", "true", status=1)
    assert "paramiko" in loaded
    assert loaded & (SPECS | IMAGES | NEVER) == set()


@pytest.mark.parametrize("words", [("--version",), ("host", "list"), ("schema",)], ids=" ".join)
def test_what_asks_no_host_loads_no_libvirt(words: tuple[str, ...]) -> None:
    assert loaded_by(*words) & (SSH | NEVER | {"libvirt"}) == set()
