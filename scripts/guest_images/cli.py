"""The command line: `guest-image [--list | --print-path] [NAME]`."""

import argparse
import signal
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guest_images import micro
from vmctl.errors import VmctlError
from vmctl.imaging.build import build, built_path, recipes
from vmctl.imaging.build.cache import get_or_build, image_path
from vmctl.imaging.build.tools import check_host
from vmctl.progress import Phase, Progress

# What the tests' guests, which have no network, install to see that cloud-init's `packages` works.
OFFLINE = ("hello", "tree")


@dataclass(frozen=True)
class Image:
    """An image that can be had: in a line, where it is or will be, and how it is made."""

    description: str
    path: Callable[[], Path]
    build: Callable[[Phase], Path]


def _debian(name: str, description: str) -> Image:
    return Image(
        f"{description}, and {' and '.join(OFFLINE)} to install without a network",
        lambda: built_path(name, offline=OFFLINE),
        lambda phase: build(name, offline=OFFLINE, phase=phase),
    )


def _build_micro(phase: Phase) -> Path:
    check_host(micro.TOOLS)
    return get_or_build(
        micro.blueprint(), lambda work, made: micro.build(work, made, phase), phase=phase
    )


IMAGES = {
    **{recipe.name: _debian(recipe.name, recipe.description) for recipe in recipes()},
    "micro": Image(
        (micro.__doc__ or "").splitlines()[0],
        lambda: image_path(micro.blueprint()),
        _build_micro,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parse(arguments)
    if options.list:
        for name, image in IMAGES.items():
            print(f"{name:<12}{image.description}")
        return 0
    # Like Ctrl-C, a polite end unwinds the stack, so that the work folder is removed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    try:
        print(_image(options.name, build=not options.print_path))
    except VmctlError as error:
        details = f"{error.details}\n" if error.details else ""
        print(f"{details}error: {error.brief}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted\nhint: nothing was left behind", file=sys.stderr)
        return 130
    return 0


def _image(name: str, *, build: bool) -> Path:
    image = IMAGES[name]
    path = image.path()
    return path if path.exists() or not build else image.build(Phase(name, "build", _tell))


def _tell(report: Progress) -> None:
    """Tell the person who waits; standard output is for the result only."""
    print(f"guest-image: {report.machine}: {report.detail}", file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="guest-image",
        description="Print the path of a guest image, after building it where the cache lacks it.",
    )
    parser.add_argument("name", nargs="?", choices=sorted(IMAGES), help="the image")
    parser.add_argument("--list", action="store_true", help="list the images and what they are")
    parser.add_argument(
        "--print-path", action="store_true", help="print where the image would be; don't build it"
    )
    options = parser.parse_args(arguments)
    if not options.list and options.name is None:
        parser.error("which image? --list shows them")
    return options


def _terminated(_number: int, _frame: types.FrameType | None) -> None:
    raise KeyboardInterrupt
