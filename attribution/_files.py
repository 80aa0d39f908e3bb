"""Files that are written whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and make sure that it can be written to.

    Raises:
        OSError: It cannot; the message says which and why.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(f"cannot write to the folder {path}: {error.strerror or error}") from error
    return path


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`, put in its place when the block ends well and removed when it does not.

    Raises:
        OSError: The folder cannot be written to.
    """
    path = Path(path)
    parent = folder(path.parent)
    handle, name = tempfile.mkstemp(dir=parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
