"""The commands that watch machines, on libvirt's test driver."""

from __future__ import annotations

import json

from .conftest import Vmctl

_TEST = ("-c", "test:///default")


def test_stats(vmctl: Vmctl) -> None:
    done = vmctl(*_TEST, "stats", "--interval", "0.1", "test", "-f", "json")
    (one,) = json.loads(done.stdout)
    assert (one["name"], one["state"], one["disks"]) == ("test", "running", [])
    table = vmctl(*_TEST, "stats", "--interval", "0.1").stdout.splitlines()
    assert [line.split()[0] for line in table] == ["NAME", "test"]
    missing = vmctl(*_TEST, "stats", "--interval", "0.1", "nope")
    assert (missing.exit_code, missing.stdout) == (3, "")


def test_top_ends_after_its_tables(vmctl: Vmctl) -> None:
    done = vmctl(*_TEST, "top", "--interval", "0.1", "--iterations", "3", "-f", "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [[one["name"] for one in line] for line in lines] == [["test"]] * 3
    # In a pipe nothing is wiped away.
    once = vmctl(*_TEST, "top", "--interval", "0.1", "--once", "--sort", "name")
    assert "\x1b" not in once.stdout
    assert len(once.stdout.splitlines()) == 2


def test_events_that_do_not_come_in_time(vmctl: Vmctl) -> None:
    done = vmctl(*_TEST, "events", "--timeout", "0.1", "-f", "json")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    done = vmctl(*_TEST, "events", "--timeout", "0.1", "--count", "1", "test")
    assert done.exit_code == 6
    assert "there were 0 events of 1" in done.stderr
    assert vmctl(*_TEST, "events", "nope").exit_code == 3
    assert vmctl(*_TEST, "events", "--kind", "nonsense").exit_code == 2
