"""Files of people, and files that are there whole or not at all."""

import os
from pathlib import Path

from hedge.common.errors import BadInput

# Some editors begin a file with a byte order mark.
TEXT = "utf-8-sig"


def read_text(path: Path) -> str:
    """BadInput for a file that cannot be read, or is no text."""
    try:
        return path.read_text(TEXT)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not text in UTF-8") from None


def write_whole(path: Path, text: str) -> None:
    """Replaces `path`, in UTF-8; who reads at the same time finds the old text or the new one.
    OSError as it comes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
