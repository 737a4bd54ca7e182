"""Where ``vmctl`` begins. Nothing is imported here that ``vmctl --version`` does not need."""

from __future__ import annotations

import signal
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    # While it loads, nothing has begun that would have to be undone, or told of.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
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
