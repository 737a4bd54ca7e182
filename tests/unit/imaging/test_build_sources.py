"""Where packages come from: the host's own sources, those of another suite, named mirrors."""

from __future__ import annotations

import re

import pytest

from vmctl.imaging.build.sources import for_guest, from_mirrors, translated

HOST = [
    "Debian|bookworm|main|http://one.example/debian/",
    "Debian|bookworm|main|http://one.example/debian/",
    "Debian|bookworm|contrib|http://one.example/debian/",
    "Debian|bookworm-updates|main|http://one.example/debian/",
    "Debian|bookworm-backports|main|http://one.example/debian/",
    "Debian|bookworm-security|main|http://two.example/debian-security/",
    "Elsewhere|bookworm|main|http://three.example/packages/",
]


def plain(lines: list[str]) -> list[str]:
    return [re.sub(r"\[.*?\] ", "", line) for line in lines]


@pytest.mark.parametrize("suite", ["bullseye", "bookworm", "trixie"])
def test_the_host_s_mirror_is_asked_for_the_suite(suite: str) -> None:
    assert plain(translated(HOST, suite)) == [
        f"deb http://one.example/debian/ {suite} main",
        f"deb http://one.example/debian/ {suite}-updates main",
        f"deb http://two.example/debian-security/ {suite}-security main",
    ]


def test_a_suite_that_the_host_has_is_taken_from_where_it_has_it() -> None:
    targets = [*HOST, "Debian|trixie|main|http://new.example/debian/"]
    assert plain(translated(targets, "trixie")) == ["deb http://new.example/debian/ trixie main"]


@pytest.mark.parametrize(
    "targets",
    [
        [],
        ["Ubuntu|jammy|main|http://one.example/ubuntu/"],
        ["Debian|bookworm-security|main|http://two.example/debian-security/"],
        ["$(ORIGIN)|jammy|main|http://one.example/ubuntu/"],
    ],
)
def test_without_a_debian_of_its_own_the_host_has_none(targets: list[str]) -> None:
    assert translated(targets, "bookworm") == []


def test_before_the_lists_are_fetched_a_mirror_is_told_by_its_path() -> None:
    targets = ["$(ORIGIN)|trixie|main|http://one.example/debian"]
    assert plain(translated(targets, "trixie")) == ["deb http://one.example/debian trixie main"]


def test_urls_stand_for_the_suite_and_lines_for_themselves() -> None:
    line = "deb [trusted=yes] file:/srv/own ./"
    mirrors = ["http://m.example/debian", "http://m.example/debian-security/", line]
    assert plain(from_mirrors(mirrors, "trixie")) == [
        "deb http://m.example/debian trixie main",
        "deb http://m.example/debian-security/ trixie-security main",
        "deb file:/srv/own ./",
    ]
    assert from_mirrors(mirrors, "trixie")[2] == line


def test_the_guest_gets_what_it_can_reach() -> None:
    assert for_guest(
        [
            "deb [signed-by=/usr/share/keyrings/k.gpg] http://m.example/debian trixie main",
            "deb [trusted=yes arch=amd64] https://m.example/own ./",
            "deb file:/srv/debian trixie main",
            "deb [trusted=yes] copy:/srv/own ./",
        ]
    ) == [
        "deb http://m.example/debian trixie main",
        "deb [trusted=yes] https://m.example/own ./",
    ]
