"""Where tables are printed."""

from rich.console import Console

WIDTH = 200


def wide() -> Console:
    """The terminal; in a pipe or a file, where nothing wraps, wide enough for every column."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console
