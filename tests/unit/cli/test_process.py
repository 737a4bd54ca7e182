"""The command line as a process: exit codes, signals, pipes, and what it loads."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

import vmctl

Process = Callable[..., subprocess.CompletedProcess[str]]
_MAIN = [sys.executable, "-m", "vmctl.cli.main"]
_TEST = ("-c", "test:///default")


def test_version(process: Process) -> None:
    done = process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"vmctl {vmctl.__version__}\n", "")


def test_version_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['vmctl', '--version']\nfrom vmctl.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'pydantic', 'libvirt', 'paramiko', 'rich', 'yaml', 'lxml', 'jinja2', 'tomllib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_without_click_it_says_what_to_install() -> None:
    code = "import sys\nsys.modules['click'] = None\nfrom vmctl.cli.main import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert hint == "hint: pip install 'vmctl[cli]'"


@pytest.mark.parametrize(
    ("module", "words"), [("rich", (*_TEST, "list")), ("libvirt", (*_TEST, "list"))]
)
def test_without_another_package_it_says_what_to_install(
    module: str, words: tuple[str, ...]
) -> None:
    code = (
        f"import sys\nsys.modules[{module!r}] = None\nsys.argv = ['vmctl', *{words!r}]\n"
        "from vmctl.cli.main import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error == f"error: the Python package {module} is not installed"
    assert hint.startswith("hint: pip install ")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--no-such-option",), 2),
        (("lst",), 2),
        (("info",), 2),
        (("-f", "xml", "list"), 2),
        ((*_TEST, "stop", "test", "--timeout", "soon"), 2),
        ((*_TEST, "exec", "test"), 2),
        (("-c", "nonsense", "list"), 2),
        ((*_TEST, "info", "absent"), 3),
        (("-c", "private:absent", "list"), 3),
        ((*_TEST, "delete", "test"), 4),
        (("-c", "qemu+unix:///system?socket=/nowhere", "list"), 5),
        (("validate", "/no/such/file"), 7),
        (("launch", "/no/such/file"), 7),
    ],
)
def test_an_error_is_two_lines_with_its_exit_code(
    process: Process, words: tuple[str, ...], code: int
) -> None:
    _check_two_lines(process(*words), code)


def test_a_guest_that_does_not_stop_is_exit_code_6(process: Process, own: tuple[str, str]) -> None:
    _check_two_lines(process(*own, "stop", "web", "--timeout", "0"), 6)


def _check_two_lines(done: subprocess.CompletedProcess[str], code: int) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    first, *details, last = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert not first.endswith(".")
    assert all(line.startswith("  ") for line in details)
    assert last.startswith("hint: ")
    assert "Traceback" not in done.stderr


def test_debug_prints_the_traceback_too(process: Process) -> None:
    for words in (("--debug", *_TEST, "info", "absent"), (*_TEST, "info", "absent", "--debug")):
        done = process(*words)
        assert done.returncode == 3
        assert "Traceback (most recent call last)" in done.stderr
        assert done.stderr.splitlines()[-1].startswith("hint: ")


def test_an_unexpected_error_is_told_as_such() -> None:
    code = (
        "import sys\nimport vmctl.host\n"
        "def broken(*_args, **_more):\n    raise RuntimeError('it broke')\n"
        "vmctl.host.connect = broken\nsys.argv = ['vmctl', 'list']\n"
        "from vmctl.cli.main import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    error, hint = done.stderr.splitlines()
    assert error == "error: internal error: RuntimeError: it broke"
    assert "--debug" in hint


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [*_MAIN, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(30) == 128 + signal.SIGPIPE


def test_ctrl_c_while_it_loads_prints_nothing() -> None:
    code = (
        "import signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_more):\n"
        "        if name == 'click':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from vmctl.cli.main import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_wait(number: signal.Signals, own: tuple[str, str]) -> None:
    # The test driver's guest is off at once; a deaf one is waited for.
    arguments = [*own, "-v", "stop", "web", "--timeout", "60"]
    code = (
        "import sys, vmctl.stopping\n"
        "vmctl.stopping._Ladder._press_once = lambda _self: None\n"
        f"sys.argv = {['vmctl', *arguments]!r}\n"
        "from vmctl.cli.main import main\nmain()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stderr is not None
        said = b""
        while b"power button" not in said:
            ready, _, _ = select.select([running.stderr], [], [], 30)
            assert ready
            said += os.read(running.stderr.fileno(), 4096)
        running.send_signal(number)
        assert running.wait(30) == 128 + number
        rest = running.stderr.read().decode()
        assert "Traceback" not in rest
        assert rest.splitlines()[-1].startswith("error: ")
