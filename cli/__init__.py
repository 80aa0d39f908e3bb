"""The command line: `attriscope --help`."""

import _thread
import signal
import sys
import threading
import warnings
from types import FrameType
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Run the program that is named in `pyproject.toml`."""
    try:
        signal.signal(signal.SIGTERM, _stop)
        sys.unraisablehook = _again
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


def _again(lost: Any) -> None:
    """What was raised to end the program and fell on a callback of the garbage collector, which drops it, is raised again."""
    code = 128 + signal.SIGINT if isinstance(lost.exc_value, KeyboardInterrupt) else getattr(lost.exc_value, "code", None)
    if code in {128 + signal.SIGINT, 128 + signal.SIGTERM}:
        threading.Timer(0.05, _thread.interrupt_main, [code - 128]).start()
    else:
        sys.__unraisablehook__(lost)


def _warning(message: Warning | str, *_: object) -> str:
    """A warning without the source line that raised it."""
    return f"attriscope: warning: {message}\n"
