"""`vmctl pool` and `vmctl volume`, against libvirt's own test driver."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Vmctl = Callable[..., Result]
_TEST = ("-c", "test:///default")
_JSON = (*_TEST, "-f", "json")
_POOL = [
    *("name", "uuid", "type", "state", "autostart", "persistent"),
    *("capacity", "allocation", "available", "target", "source", "volumes"),
]
_VOLUME = ["pool", "name", "path", "type", "format", "capacity", "allocation", "backing"]


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "pool.yaml"
    path.write_text("{name: fast, type: dir, target: /srv/fast}")
    return str(path)


def test_pools_are_listed(vmctl: Vmctl) -> None:
    done = vmctl(*_TEST, "pool", "list")
    assert done.exit_code == 0, done.stderr
    heading, line = done.stdout.splitlines()
    assert heading.split() == ["NAME", "TYPE", "STATE", "AUTOSTART", "CAPACITY", "FREE", "VOLUMES"]
    assert line.split()[:4] == ["default-pool", "dir", "running", "no"]
    found = json.loads(vmctl(*_JSON, "pool", "list").stdout)
    assert list(found[0]) == _POOL


def test_a_pool_is_shown(vmctl: Vmctl) -> None:
    found = json.loads(vmctl(*_JSON, "pool", "info", "default-pool").stdout)
    assert (found["name"], found["target"]) == ("default-pool", "/default-pool")
    assert "target" in vmctl(*_TEST, "pool", "info", "default-pool").stdout
    missing = vmctl(*_TEST, "pool", "info", "none")
    assert missing.exit_code == 3
    assert missing.stderr.startswith("error: there is no storage pool 'none'")


def test_a_pool_is_made_from_a_file_or_from_stdin(vmctl: Vmctl, spec: str) -> None:
    for words, stdin in ((spec, None), ("-", Path(spec).read_text())):
        done = vmctl(*_JSON, "pool", "create", words, stdin=stdin)
        assert done.exit_code == 0, done.stderr
        made = json.loads(done.stdout)
        assert list(made) == _POOL
        assert (made["name"], made["type"], made["state"]) == ("fast", "dir", "running")
    bad = vmctl(*_TEST, "pool", "create", "-", stdin="{name: fast, type: fs, target: /srv}")
    assert bad.exit_code == 7
    assert "source.devices: a pool of type fs needs it" in bad.stderr


def test_a_pool_is_deleted_and_an_unsure_call_is_refused(vmctl: Vmctl) -> None:
    both = vmctl(*_TEST, "pool", "delete", "default-pool", "--with-volumes", "--keep-volumes")
    assert both.exit_code == 2
    done = vmctl(*_JSON, "pool", "delete", "default-pool")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == {"name": "default-pool", "deleted": True}


def test_volumes_are_made_and_listed(vmctl: Vmctl) -> None:
    done = vmctl(*_JSON, "volume", "create", "default-pool/data", "8MiB")
    assert done.exit_code == 0, done.stderr
    made = json.loads(done.stdout)
    assert list(made) == _VOLUME
    assert (made["pool"], made["name"], made["capacity"]) == ("default-pool", "data", 8 << 20)
    table = vmctl(*_TEST, "--pool", "default-pool", "volume", "create", "data", "8MiB")
    assert table.stdout.splitlines()[1].split()[:2] == ["default-pool", "data"]
    # Each connection to the test driver has a host of its own.
    assert vmctl(*_JSON, "volume", "list", "default-pool").stdout == "[]\n"


def test_what_is_wrong_with_a_volume_is_said(vmctl: Vmctl) -> None:
    missing = vmctl(*_TEST, "volume", "delete", "default-pool/none")
    assert missing.exit_code == 3
    assert "there is no volume 'none' in the pool 'default-pool'" in missing.stderr
    assert vmctl(*_TEST, "volume", "list", "none").exit_code == 3
    assert vmctl(*_TEST, "volume", "create", "default-pool/x", "10").exit_code == 2
    assert vmctl(*_TEST, "volume", "create", "a/b/c", "10MiB").exit_code == 2
