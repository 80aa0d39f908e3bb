"""What a user did wrong, as one sentence on stderr and exit code 2."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast

import typer
from typer.core import TyperGroup

USAGE, INTERRUPTED = 2, 130
STOPPED = "stopped; the files that were written are whole"
ClickException = cast("type[Exception]", typer.BadParameter.__mro__[2])  # typer brings its own click; older ones use click

__all__ = ["Problem", "Program", "Stopped", "explained", "say"]


class Problem(Exception):  # noqa: N818  the user's, not ours
    """One sentence that says what is wrong and what to do."""


class Stopped(Problem):
    """Ctrl-C, where there is more to say than that."""


@contextlib.contextmanager
def explained(before: str = "") -> Iterator[None]:
    """What the library refuses in here is the user's problem.

    Args:
        before: Put in front of the library's own sentence.
    """
    try:
        yield
    except (ValueError, TypeError, OSError) as error:
        raise Problem(before + one_line(error)) from error


def one_line(error: BaseException) -> str:
    """An exception's message on one line; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def say(text: str) -> None:
    """One line on stderr, where it does not mix with tables."""
    print(f"attriscope: {text}", file=sys.stderr)


class Program(TyperGroup):
    """The commands, with every problem told in one sentence."""

    def main(
        self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
        standalone_mode: bool = True, windows_expand_args: bool = True, **more: Any,
    ) -> Any:
        """Run a command and end the process with its exit code."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **more)
        except (Problem, ClickException, typer.Abort, KeyboardInterrupt) as error:
            if not standalone_mode:
                raise
            sys.exit(_tell(error))
        if not standalone_mode:
            return code
        if code == INTERRUPTED:
            say(STOPPED)
        sys.exit(code if isinstance(code, int) else 0)


def _tell(error: BaseException) -> int:
    """Say what ended a command; the exit code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        say(STOPPED)
        return INTERRUPTED
    if isinstance(error, Problem):
        say(str(error))
        return INTERRUPTED if isinstance(error, Stopped) else USAGE
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context is not None else ""
    message: str = error.format_message()  # type: ignore[attr-defined]
    say(" ".join(message.split()).rstrip(".") + hint)
    return USAGE
