"""Commands in a guest: by SSH and by the agent, what is around them, and connections that end."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable
from typing import Literal

import pytest

import vmctl
from vmctl.guest.sessions import Sessions
from vmctl.hypervisor import private
from vmctl.hypervisor.events import Signal

from .test_waiting import _libvirtd_of

pytestmark = pytest.mark.timeout(300)

SpecMaker = Callable[..., vmctl.VMSpec]
_BOTH = pytest.mark.parametrize("via", ["ssh", "agent"])
_AWKWARD = "a'b\"c $HOME `id` \\n\n\nsecond line\n\n%s\t"


@_BOTH
def test_what_is_around_a_command(shared_vm: vmctl.VM, via: Literal["ssh", "agent"]) -> None:
    done = shared_vm.run(
        'printf %s "$W"; ps -o args >&2', env={"W": _AWKWARD, "S": "s3cret"}, via=via, check=True
    )
    assert (done.stdout, done.via) == (_AWKWARD, via)
    assert "ps -o args" in done.stderr
    assert "s3cret" not in done.stderr
    done = shared_vm.run(
        "id -un; pwd; echo $A; cat",
        env={"A": "1"},
        cwd="/etc/ssh",
        user="root",
        stdin=b"in",
        via=via,
        check=True,
    )
    assert done.stdout == "root\n/etc/ssh\n1\nin"
    assert shared_vm.run("pwd", cwd="/nowhere", via=via).exit_status == 126


@_BOTH
def test_a_stdin_that_is_a_file(shared_vm: vmctl.VM, via: Literal["ssh", "agent"]) -> None:
    content = os.urandom(300_000)
    done = shared_vm.run("sha256sum; echo $A", env={"A": "1"}, stdin=io.BytesIO(content), via=via)
    with_bytes = shared_vm.run("sha256sum; echo $A", env={"A": "1"}, stdin=content, via=via)
    assert done.stdout == with_bytes.stdout
    assert done.stdout.endswith("\n1\n")


def test_a_stdin_that_never_ends_and_one_that_fails(shared_vm: vmctl.VM) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stdin:
        assert shared_vm.run("head -n 1; echo over", stdin=io.BytesIO(b"a\nb\n")).stdout
        assert shared_vm.run("echo over", stdin=stdin, via="ssh").stdout == "over\n"
        os.close(writer)

    class Broken(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            raise ValueError("this file is broken")

    with pytest.raises(ValueError, match="this file is broken"):
        shared_vm.run("cat", stdin=Broken(), via="ssh")
    assert shared_vm.run("true").exit_status == 0


def test_more_output_than_one_answer_of_the_agent_holds(shared_vm: vmctl.VM) -> None:
    pieces: list[bytes] = []
    done = shared_vm.run(
        "head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2; exit 3",
        via="agent",
        on_stdout=pieces.append,
    )
    assert (done.exit_status, len(done.stdout), done.stderr) == (3, 3_000_000, "end\n")
    assert b"".join(pieces) == done.stdout.encode()
    assert shared_vm.run("ls -d /run/vmctl.*", via="ssh").stdout == ""


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("nothing_left")
def test_a_connection_survives_restarts(
    host: vmctl.Host, private_host: private.PrivateHost, make_spec: SpecMaker
) -> None:
    vm = host.launch(make_spec())
    kept = vm.ssh()
    assert vm.run("true").exit_status == 0
    assert vm.ssh() is kept

    # libvirtd: the guest runs on, and so does the connection to it.
    daemon = _libvirtd_of(private_host)
    os.kill(daemon, signal.SIGKILL)
    assert vm.run("echo still here", check=True).stdout == "still here\n"
    assert vm.ssh() is kept
    back = Signal().wait_for(lambda: _state(vm), deadline=time.monotonic() + 60)
    assert back == "running"
    assert daemon != _libvirtd_of(private_host)

    # The guest, as by its reset button: nobody tells this side that the connection is over.
    # What it has not written to its disk by then is lost, its keys as well.
    boot = vm.run("sync; cat /proc/sys/kernel/random/boot_id").stdout
    vm._domain.raw().reset(0)
    after = Signal().wait_for(lambda: _boot(vm, boot), deadline=time.monotonic() + 240)
    assert after
    assert vm.ssh() is not kept
    assert not kept.alive

    # By the agent, where SSH is away for good.
    vm.run(
        "sed -i /sshd/d /etc/inittab && kill -HUP 1 && kill $(pidof sshd)", user="root", via="agent"
    )
    fallen_back = Signal().wait_for(
        lambda: done if (done := vm.run("id -un", timeout=60)).via == "agent" else None,
        deadline=time.monotonic() + 240,
    )
    assert fallen_back is not None
    assert (fallen_back.stdout, fallen_back.via) == ("root\n", "agent")
    with pytest.raises(vmctl.GuestUnreachableError) as caught:
        vm.run("true", via="ssh")
    assert caught.value.hint

    # And at once, where there is no NIC that SSH could come by.
    vm.nics.detach(vm.nics.list()[0].mac)
    with pytest.raises(vmctl.GuestUnreachableError, match="has no NIC"):
        vm.run("true", via="ssh")
    assert vm.run("true").via == "agent"
    vm.delete()


def _state(vm: vmctl.VM) -> str | None:
    try:
        return vm.state
    except vmctl.HostUnavailableError:
        return None


def _boot(vm: vmctl.VM, before: str) -> str | None:
    """Return the guest's boot, when it is another one than before."""
    try:
        now = vm.run("cat /proc/sys/kernel/random/boot_id", via="ssh", timeout=60).stdout
    except vmctl.GuestUnreachableError:
        # Its sshd is not up yet; what counts is that a later call gets through.
        return None
    return now if now != before else None


def test_sessions_that_somebody_else_opened_stay() -> None:
    class Session:
        alive = True
        closed = False

        def close(self) -> None:
            self.closed = True

    sessions, old, new = Sessions(), Session(), Session()
    sessions.keep("u", new)  # type: ignore[arg-type]
    sessions.drop("u", only=old)  # type: ignore[arg-type]
    assert sessions.get("u") is new  # type: ignore[comparison-overlap]
    sessions.drop("u", only=new)  # type: ignore[arg-type]
    assert new.closed
