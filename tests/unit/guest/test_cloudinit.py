"""cloud-init's verdict, as several versions write it."""

from __future__ import annotations

import json

import pytest

from vmctl.errors import GuestUnreachableError, ProvisioningError
from vmctl.guest.cloudinit import judge, read_text, read_verdict
from vmctl.guest.command import CompletedCommand


def answer(stdout: str, status: int = 0) -> CompletedCommand:
    return CompletedCommand(
        command="cloud-init status", exit_status=status, stdout=stdout, stderr="", via="ssh"
    )


def test_done() -> None:
    verdict = read_verdict(answer(json.dumps({"status": "done", "errors": []})))
    assert not verdict.failed
    assert verdict.module is None


def test_an_error_names_its_module() -> None:
    """As cloud-init 22.4 writes it."""
    error = "('scripts-user', RuntimeError('Runparts: 1 failures (runcmd) in 1 commands'))"
    verdict = read_verdict(answer(json.dumps({"status": "error", "errors": [error]}), 1))
    assert verdict.failed
    assert verdict.module == "scripts-user"
    assert verdict.errors == (error,)


def test_recoverable_errors_are_warnings() -> None:
    """As cloud-init 23.4 and later write them, with status 2."""
    document = {
        "status": "done",
        "extended_status": "degraded done",
        "errors": [],
        "recoverable_errors": {"WARNING": ["first", "second"]},
    }
    verdict = read_verdict(answer(json.dumps(document), 2))
    assert not verdict.failed
    assert verdict.warnings == ("WARNING: first", "WARNING: second")


@pytest.mark.parametrize("status", ["disabled", "not run", "running", "error", "unknown"])
def test_anything_but_done_has_failed(status: str) -> None:
    assert read_verdict(answer(json.dumps({"status": status}))).failed


def test_dots_before_the_answer_are_skipped() -> None:
    assert not read_verdict(answer('.....\n{"status": "done"}')).failed


@pytest.mark.parametrize("text", ["", "....", "{", "[]", '"done"', "null"])
def test_no_answer_is_no_verdict(text: str) -> None:
    with pytest.raises(GuestUnreachableError, match="gave no answer"):
        read_verdict(answer(text))


def test_a_guest_without_cloud_init() -> None:
    with pytest.raises(ProvisioningError, match="has no cloud-init"):
        read_verdict(answer("", 127))


OLD_DONE = "\n\nstatus: done\ntime: Wed, 01 Jan 2020 00:00:00 +0000\ndetail:\nDataSourceNoCloud\n"
OLD_ERROR = "status: error\ntime: then\ndetail:\n('scripts-user', RuntimeError('Runparts'))\n"


def test_the_text_of_old_versions() -> None:
    """As cloud-init 20.4 writes it, which knows no formats."""
    assert not read_text(answer(OLD_DONE)).failed
    verdict = read_text(answer(OLD_ERROR, 1))
    assert verdict.failed
    assert verdict.module == "scripts-user"
    with pytest.raises(GuestUnreachableError, match="gave no answer"):
        read_text(answer("usage: cloud-init", 2))


class Old:
    """A session with a guest whose cloud-init has no --format."""

    alive = True

    def __init__(self, text: str) -> None:
        self.text = text
        self.asked: list[str] = []

    def run(self, command: str, *, timeout: float) -> CompletedCommand:
        self.asked.append(command)
        if "--format" in command:
            return answer("", 2)
        return answer(self.text)


def test_an_old_version_is_asked_again_in_its_own_words() -> None:
    session = Old(OLD_DONE)
    verdict = judge(session, machine="m", timeout=10)  # type: ignore[arg-type]
    assert verdict.status == "done"
    assert len(session.asked) == 2
    with pytest.raises(ProvisioningError, match="scripts-user"):
        judge(Old(OLD_ERROR), machine="m", timeout=10)  # type: ignore[arg-type]
