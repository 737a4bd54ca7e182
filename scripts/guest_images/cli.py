"""The command line: `guest-image [--list | --print-path] [NAME]`."""

import argparse
import signal
import sys
import types
from collections.abc import Sequence
from pathlib import Path

from guest_images import commands, debian_12, micro
from guest_images.cache import get_or_build, image_path
from guest_images.errors import BuildError

RECIPES: dict[str, types.ModuleType] = {"debian-12": debian_12, "micro": micro}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parse(arguments)
    if options.list:
        for name, module in RECIPES.items():
            print(f"{name:<12}{(module.__doc__ or '').splitlines()[0]}")
        return 0
    # Like Ctrl-C, a polite end unwinds the stack, so that the work folder is removed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    try:
        print(_image(options.name, build=not options.print_path))
    except BuildError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}\nhint: look at the cache folder's space and rights", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted\nhint: nothing was left behind", file=sys.stderr)
        return 130
    return 0


def _image(name: str, *, build: bool) -> Path:
    recipe = RECIPES[name]
    folder = Path(str(recipe.__file__)).parent
    image = image_path(name, folder)
    if not build or image.exists():
        return image
    commands.check_host()
    return get_or_build(name, folder, recipe.build)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="guest-image",
        description="Print the path of a guest image, after building it where the cache lacks it.",
    )
    parser.add_argument("name", nargs="?", choices=sorted(RECIPES), help="the image")
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
