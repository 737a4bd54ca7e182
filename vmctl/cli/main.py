"""Where ``vmctl`` begins. Nothing is imported here that ``vmctl --version`` does not need."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    try:
        import click  # noqa: F401, PLC0415 - it may be missing, which is to be said kindly
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write(
            "error: the command line needs Python packages that are not installed (click)\n"
            "hint: pip install 'vmctl[cli]'\n"
        )
        sys.exit(1)
    from vmctl.cli.root import run  # noqa: PLC0415 - it needs click

    sys.exit(run())


if __name__ == "__main__":
    main()
