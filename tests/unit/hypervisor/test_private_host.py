"""Private hosts, as far as they can be tested without starting one."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vmctl.errors import (
    ConflictError,
    HostUnavailableError,
    NotFoundError,
    PermissionDeniedError,
    UnsupportedError,
    UsageError,
)
from vmctl.hypervisor import private
from vmctl.hypervisor.private import config, devices, preparation, programs, stop
from vmctl.hypervisor.private.layout import layout_for
from vmctl.hypervisor.private.locking import lock
from vmctl.hypervisor.private.process import ProcessIdentity, marked_processes
from vmctl.hypervisor.private.record import Record

SLEEPER = [sys.executable, "-c", "import sys; sys.stdin.read()"]


def record(**changes: object) -> Record:
    base = Record(id="0e0e0e0e-0000-4000-8000-000000000000", kind="system", network="own")
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    ["", "-a", "A", "a b", "a/b", "..", "a" * 32, "a\n", "ä", "a_b", "&", "<x>", "a" * 300],
)
def test_names_that_are_refused(name: str, tmp_path: Path) -> None:
    for call in (private.start, private.find, private.stop):
        with pytest.raises(UsageError) as caught:
            call(name, state_home=tmp_path)
        assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "0", "ci-7", "a" * 31])
def test_names_that_are_taken(name: str) -> None:
    assert layout_for(name, Path("/s")).state_dir == Path("/s/hosts", name)


def test_a_socket_path_may_have_107_bytes() -> None:
    rest = len("/hosts/a/run/libvirt/libvirt-sock")
    longest = Path("/" + "h" * (107 - rest - 1))
    assert len(str(layout_for("a", longest).socket)) == 107
    with pytest.raises(UsageError, match="path of 108 bytes") as caught:
        layout_for("aa", longest)
    assert "VMCTL_STATE_HOME" in caught.value.hint


def test_bytes_count_not_characters() -> None:
    with pytest.raises(UsageError, match="bytes"):
        layout_for("a", Path("/" + "é" * 50))


def test_where_state_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VMCTL_STATE_HOME", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert private.state_home() == Path("/var/lib/vmctl")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "/x/state")
    assert private.state_home() == Path("/x/state/vmctl")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/u")
    assert private.state_home() == Path("/home/u/.local/state/vmctl")
    monkeypatch.setenv("VMCTL_STATE_HOME", "/elsewhere")
    assert private.state_home() == Path("/elsewhere")


def test_a_socket_is_quoted_in_the_uri() -> None:
    uri = layout_for("a", Path("/my state&x")).uri("session")
    socket = "/my%20state%26x/hosts/a/run/libvirt/libvirt-sock"
    assert uri == f"qemu+unix:///session?socket={socket}"


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    me = ProcessIdentity.of(os.getpid())
    full = record(supervisor=me, init=me, ready=True, warnings=("no network",), short_dir="/tmp/x")
    full.write(tmp_path / "host.json")
    assert Record.read(tmp_path / "host.json") == full
    assert [path.name for path in tmp_path.iterdir()] == ["host.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"id": "x", "other": 1}', "\xff"])
def test_a_record_that_makes_no_sense_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text(text, encoding="latin-1")
    assert Record.read(tmp_path / "host.json") is None


def test_a_record_of_a_newer_vmctl_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    known = record(init=ProcessIdentity.of(os.getpid()))
    known.write(path)
    data = json.loads(path.read_text())
    newer = data | {"colour": "blue", "init": data["init"] | {"cgroup": "/"}}
    path.write_text(json.dumps(newer))
    assert Record.read(path) == known


@pytest.mark.parametrize("name", ["host.json", "host.new"])
def test_what_a_cut_short_start_left_is_removed(name: str, tmp_path: Path) -> None:
    layout = layout_for("a", tmp_path)
    layout.state_dir.mkdir(parents=True, mode=0o700)
    (layout.state_dir / name).write_text("")
    stop("a", state_home=tmp_path)
    assert not layout.state_dir.exists()


@pytest.mark.parametrize(
    ("name", "mode", "text"),
    [
        ("letters", 0o700, ""),
        ("host.json", 0o755, ""),
        # Whole, and of a vmctl that writes something else: its host may run.
        ("host.json", 0o700, '{"version": 7}'),
    ],
)
def test_what_may_be_of_use_to_somebody_is_left_alone(
    name: str, mode: int, text: str, tmp_path: Path
) -> None:
    layout = layout_for("a", tmp_path)
    layout.state_dir.mkdir(parents=True)
    layout.state_dir.chmod(mode)
    (layout.state_dir / name).write_text(text)
    with pytest.raises(ConflictError, match="is not the state of a private host"):
        stop("a", state_home=tmp_path)
    assert (layout.state_dir / name).exists()


def test_a_host_that_is_served_is_no_debris(tmp_path: Path) -> None:
    layout = layout_for("a", tmp_path)
    layout.socket.parent.mkdir(parents=True)
    layout.state_dir.chmod(0o700)
    layout.record.write_text("")
    assert layout.is_debris
    with socket.socket(socket.AF_UNIX) as libvirtd:
        libvirtd.bind(str(layout.socket))
        libvirtd.listen()
        assert not layout.is_debris


def test_a_libvirtd_that_breaks_off_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_uri: str) -> None:
        raise RuntimeError("it broke off")

    monkeypatch.setattr(preparation, "opened", broken)
    with pytest.raises(HostUnavailableError, match="it broke off"):
        preparation.guests_of("qemu:///system")


def test_a_libvirtd_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_ANSWER_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "sock"))
        silent.listen()
        with pytest.raises(HostUnavailableError, match="does not answer") as caught:
            preparation.guests_of(f"qemu+unix:///system?socket={tmp_path / 'sock'}")
    assert "--force" in caught.value.hint


def test_a_process_is_more_than_its_pid() -> None:
    me = ProcessIdentity.of(os.getpid())
    assert me.alive
    # signal 0 would do no harm, but it must not even get there
    for other in (
        dataclasses.replace(me, started=me.started + 1),
        dataclasses.replace(me, boot="another"),
    ):
        assert not other.alive
        assert other.signal(signal.SIGKILL)


def test_a_process_is_ended_and_waited_for() -> None:
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE) as process:
        identity = ProcessIdentity.of(process.pid)
        assert not identity.signal(0)
        assert identity.signal(signal.SIGKILL, wait=10)
        assert not identity.alive  # a zombie by now, which is no process any more


def test_processes_are_found_by_a_mark() -> None:
    env = {**os.environ, "VMCTL_TEST_MARK": f"/mark/{os.getpid()}"}
    with subprocess.Popen(SLEEPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as child:
        found = [p.pid for p in marked_processes("VMCTL_TEST_MARK", f"/mark/{os.getpid()}")]
        assert found == [child.pid]
        assert not list(marked_processes("VMCTL_TEST_MARK", "/mark"))
        child.kill()


def test_who_waits_for_a_lock_gets_it_and_nothing_stays(tmp_path: Path) -> None:
    layout = layout_for("a", tmp_path)
    order = []

    def second() -> None:
        with lock(layout):
            order.append("second")

    with lock(layout):
        thread = threading.Thread(target=second)
        thread.start()
        with pytest.raises(ConflictError), lock(layout, only_try=True):
            pass
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def _count(home: Path, times: int) -> None:
    layout = layout_for("a", home)
    counter = home / "counter"
    for _ in range(times):
        with lock(layout):
            counter.write_text(str(int(counter.read_text()) + 1))


def test_a_lock_that_is_removed_each_time_still_excludes(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_count, args=(tmp_path, 100)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert (tmp_path / "counter").read_text() == "400"
    assert [path.name for path in tmp_path.iterdir()] == ["counter"]


def test_trying_a_lock_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError), lock(layout_for("a", tmp_path), only_try=True):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_s() -> None:
    with pytest.raises(PermissionDeniedError):
        private.start("a", state_home=Path("/etc/vmctl-test"))


def test_a_state_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as caught:
        private.start("a", state_home=tmp_path / "file")
    assert "VMCTL_STATE_HOME" in caught.value.hint
    assert private.list_hosts(state_home=tmp_path / "file") == []


def test_a_state_home_that_is_a_dead_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UsageError):
        private.start("a", state_home=tmp_path / "link")


def test_a_host_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        private.find("a", state_home=tmp_path)
    assert caught.value.hint == "start one: vmctl host start a"
    with pytest.raises(NotFoundError):
        private.stop("a", state_home=tmp_path)
    assert private.list_hosts(state_home=tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_host_that_does_not_run_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_for("a", tmp_path)
    layout.state_dir.mkdir(parents=True)
    gone = dataclasses.replace(ProcessIdentity.of(os.getpid()), boot="the last one")
    record(supervisor=gone, init=gone, ready=True).write(layout.record)
    monkeypatch.setenv("VMCTL_STATE_HOME", str(tmp_path))
    with pytest.raises(HostUnavailableError) as caught:
        private.from_uri("private:a")
    assert caught.value.hint == "vmctl host start a"
    assert [(host.name, host.running) for host in private.list_hosts()] == [("a", False)]
    private.stop("a")  # without force: what it had is lost already
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_has_not_ended(tmp_path: Path) -> None:
    layout = layout_for("a", tmp_path)
    layout.state_dir.mkdir(parents=True)
    record(init=ProcessIdentity.of(os.getpid())).write(layout.record)
    with pytest.raises(HostUnavailableError, match="being started"):
        private.find("a", state_home=tmp_path)


def test_a_folder_that_is_no_host_s_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "hosts" / "a" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.touch()
    for call in (private.start, private.stop):
        with pytest.raises(ConflictError, match="not the state of a private host"):
            call("a", state_home=tmp_path)
    assert precious.exists()


def test_a_uri_of_another_kind() -> None:
    with pytest.raises(UsageError):
        private.from_uri("qemu:///system")


@pytest.mark.parametrize("program", ["libvirtd", "virtlogd"])
def test_a_program_that_is_missing(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = programs.find
    monkeypatch.setattr(programs, "find", lambda name: None if name == program else find(name))
    with pytest.raises(UnsupportedError, match=program) as caught:
        private.start("a", state_home=tmp_path)
    assert "libvirt-daemon-system" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_daemons_are_looked_for_where_a_user_s_path_does_not_lead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/opt/bin:/usr/bin")
    path = programs.search_path().split(":")
    assert path[:2] == ["/opt/bin", "/usr/bin"]
    assert "/usr/sbin" in path
    assert len(path) == len(set(path))


def test_only_root_has_a_network_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedError) as caught:
        private.start("a", network="own", state_home=tmp_path)
    assert "network=host" in caught.value.hint


def test_a_network_that_is_none_of_the_two(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        private.start("a", network="bridge", state_home=tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "flags", ["", "flags\t\t: fpu sse\n", "vmx flags\t: x\n", "flags\t\t: not-vmx svm_lock\n"]
)
def test_kvm_needs_a_processor_with_the_extensions(
    flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(flags)
    assert not devices.kvm_works(Path("/dev/null"), tmp_path / "cpuinfo")


@pytest.mark.parametrize("device", ["/dev/null", "/nowhere"])
def test_kvm_needs_a_device_that_makes_machines(device: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu vmx\n")
    assert not devices.kvm_works(Path(device), tmp_path / "cpuinfo")


def test_configuration() -> None:
    uuid = "0e0e0e0e-0000-4000-8000-000000000000"
    assert f'host_uuid = "{uuid}"' in config.libvirtd_conf(host_uuid=uuid)
    assert "cgroup_controllers = []" in config.qemu_conf()
    assert "namespaces = []" in config.qemu_conf()
    assert "max_size = 33554432" in config.virtlogd_conf()
    assert config.hosts_file("127.0.0.1 localhost", "a") == "127.0.0.1 localhost\n127.0.1.1 a\n"
    assert config.hosts_file("", "a") == "127.0.1.1 a\n"
