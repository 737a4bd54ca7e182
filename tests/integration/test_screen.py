"""The screen and the keyboard of a guest that has nothing else, from both sides."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

import vmctl
from vmctl.guest.pixmap import size_of
from vmctl.hypervisor import private
from vmctl.hypervisor.events import Signal

from .legacy_guest import PROMPT, at_prompt, legacy_spec

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("nothing_left")]

Run = Callable[..., subprocess.CompletedProcess[bytes]]
_GREEN, _RED = (0, 0xA8, 0), (0xA8, 0, 0)


@pytest.fixture
def run(private_host: private.PrivateHost) -> Run:
    def call(*words: str, code: int = 0, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [sys.executable, "-m", "vmctl.cli.main", *words],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
            env={**os.environ, "VMCTL_URI": f"private:{private_host.name}"},
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done

    return call


def pixels_of(png: bytes) -> list[list[tuple[int, ...]]]:
    """Return a picture of 8 bit RGB, line by line (https://www.w3.org/TR/png/#9Filters)."""
    width, height = size_of(png)
    assert png[24:26] == b"\x08\x02"
    place, packed = 8, b""
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        packed += png[place + 8 : place + 8 + length] if kind == b"IDAT" else b""
        place += 12 + length
    raw, above, lines = zlib.decompress(packed), bytes(3 * width), []
    for row in range(height):
        start = row * (3 * width + 1)
        filtered, line = raw[start + 1 : start + 1 + 3 * width], bytearray()
        for index, value in enumerate(filtered):
            left = line[index - 3] if index >= 3 else 0
            corner = above[index - 3] if index >= 3 else 0
            line.append(value + _predicted(raw[start], left, above[index], corner) & 255)
        above = bytes(line)
        lines.append([tuple(line[3 * x : 3 * x + 3]) for x in range(width)])
    return lines


def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    nearest = min((left, up, corner), key=lambda value: abs(guess - value))
    return (0, left, up, (left + up) // 2, nearest)[kind]


def near(pixel: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return all(abs(is_ - should) < 8 for is_, should in zip(pixel, wanted, strict=True))


def test_what_is_on_the_screen(old: vmctl.VM) -> None:
    at_prompt(old)
    shot = old.screen.screenshot()
    lines = pixels_of(shot)
    assert (len(lines), len(lines[0])) == (400, 720)
    # 25 lines of text: the last two are filled with green and red.
    for row, colour in ((23, _GREEN), (24, _RED)):
        assert all(near(lines[16 * row + 8][x], colour) for x in range(4, 720, 9))
    assert near(lines[16 * 12 + 8][360], (0, 0, 0))
    # The banner is in the first line, in grey.
    assert {pixel for line in lines[:16] for pixel in line} > {(0, 0, 0)}
    old.console.send("more")
    old.console.expect("more")
    assert old.screen.screenshot() != shot


def test_keys_arrive(old: vmctl.VM) -> None:
    at_prompt(old)
    old.screen.send_keys("a", "shift-b", "f1", "minus", "up", "enter", hold=0.02)
    found = old.console.expect(PROMPT)
    assert found.before.strip() == "aB<3b>-<48>"


def test_a_text_arrives_with_every_character(old: vmctl.VM) -> None:
    at_prompt(old)
    text = r"""dir C:\*.* /P | more "x" 'y' <1>;!@#$%^&()_+-={}[]`~,?0Zz"""
    old.screen.type_text(f"{text}\r", hold=0.02)
    assert old.console.expect(PROMPT).before.strip() == text


def test_a_long_text_arrives_at_the_default_pace(old: vmctl.VM) -> None:
    at_prompt(old)
    text = "the quick brown fox jumps over the lazy dog"
    begin = time.monotonic()
    old.screen.type_text(text)
    assert time.monotonic() - begin < 10
    assert old.console.expect(text).before == ""


def test_what_can_not_be_typed_types_nothing(old: vmctl.VM) -> None:
    at_prompt(old)
    with pytest.raises(vmctl.UsageError):
        old.screen.type_text("gr\u00fcn")
    with pytest.raises(vmctl.UsageError):
        old.screen.send_keys("a", "hyper-x")
    for hold in (0, -1, 61, float("nan")):
        with pytest.raises(vmctl.UsageError):
            old.screen.send_keys("a", hold=hold)
    old.screen.send_keys("z")
    assert old.console.expect("z").before == ""


def test_screens_that_are_not_there(host: vmctl.Host, old: vmctl.VM, tmp_path: Path) -> None:
    with pytest.raises(vmctl.NotFoundError, match="no screen 7"):
        old.screen.screenshot(screen=7)
    with pytest.raises(vmctl.UsageError):
        old.screen.screenshot(screen=-1)
    blind = host.create(legacy_spec(tmp_path, video="none"))
    for call in (blind.screen.screenshot, lambda: blind.screen.send_keys("a")):
        with pytest.raises(vmctl.WrongStateError) as caught:
            call()
        assert (caught.value.state, "vmctl start" in caught.value.hint) == ("shut off", True)
    blind.start()
    with pytest.raises(vmctl.NotFoundError) as missing:
        blind.screen.screenshot()
    assert "video" in missing.value.hint
    blind.pause()
    with pytest.raises(vmctl.WrongStateError) as caught:
        blind.screen.type_text("a")
    assert "vmctl resume" in caught.value.hint
    blind.delete()


def test_by_the_command_line(run: Run, old: vmctl.VM, tmp_path: Path) -> None:
    at_prompt(old)
    file = tmp_path / "shot.png"
    done = run("screenshot", old.name, str(file), "-f", "json")
    assert json.loads(done.stdout) == {
        "name": old.name, "file": str(file), "width": 720, "height": 400,
    }  # fmt: skip
    assert run("screenshot", old.name, "-").stdout[:8] == file.read_bytes()[:8]
    assert b"--replace" in run("screenshot", old.name, str(file), code=4).stderr
    run("screenshot", "--replace", old.name, str(file))
    assert [entry.name for entry in tmp_path.iterdir()] == ["shot.png"]

    run("send-key", old.name, "--hold", "20", "x", "enter")
    assert old.console.expect(PROMPT).before.strip() == "x"
    run("type", old.name, "--hold", "20", "--enter", "-", stdin=b"s3cret\n")
    assert old.console.expect(PROMPT).before.strip() == "s3cret"
    run("type", old.name, "--hold", "20", "--layout", "de", "yz")
    assert old.console.expect("zy").before == ""


def test_ctrl_alt_delete_starts_it_again(old: vmctl.VM) -> None:
    at_prompt(old)
    log = len(old.console_log())
    old.screen.send_keys("ctrl-alt-delete")
    again = Signal().wait_for(
        lambda: old.console_log()[log:].count("Legacy") or None, deadline=time.monotonic() + 30
    )
    assert again
