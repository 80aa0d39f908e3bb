"""The command line: `attriscope --help`."""

import signal
import sys
import warnings
from types import FrameType

__all__ = ["main"]


def main() -> None:
    """Run the program that is named in `pyproject.toml`."""
    try:
        signal.signal(signal.SIGTERM, _stop)
        warnings.formatwarning = _warning  # type: ignore[assignment]
        from .app import app

        app(prog_name="attriscope")
    except KeyboardInterrupt:  # while a library was being imported
        print("attriscope: stopped", file=sys.stderr)
        sys.exit(130)


def _stop(number: int, frame: FrameType | None) -> None:
    """End as an exception, so that files half written are removed."""
    del frame
    sys.exit(128 + number)


def _warning(message: Warning | str, *_: object) -> str:
    """A warning without the source line that raised it."""
    return f"attriscope: warning: {message}\n"
