"""hedge plot: figures, as PNG and SVG, of what the other commands and the token study wrote."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hedge.common.command import command_parser, parse, say
from hedge.common.errors import BadInput, HedgeError
from hedge.evaluation.record import parse_answers, read_journal
from research.sweep import POINT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = ("frontier", "throughput", "payload")
TOKENS = ("uncertainty", "roc", "truncation")
KINDS = (*TOKENS, *ROWS, "skips", "bench", "gelato", "wireless")
EXAMPLES = """  hedge plot throughput runs/paper/rows.jsonl --out plots
  hedge plot uncertainty runs/tokens.jsonl --out plots
  hedge plot skips runs/headline/answers-*.jsonl --out plots
  hedge plot bench runs/bench/bench.jsonl --out plots
  hedge plot gelato runs/gelato/rows.jsonl --out plots
  hedge plot wireless runs/wireless/rows.jsonl --out plots"""


def command(arguments: Sequence[str]) -> None:
    parser = command_parser("hedge plot", "Draws PNG and SVG, readable in grey.", EXAMPLES)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="rows, answers (skips) or tokens, as JSONL",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    args = parse(parser, arguments)
    try:
        import matplotlib as mpl
    except ImportError:
        raise HedgeError("hedge plot needs matplotlib: pip install 'hedge-hlm[bench]'") from None
    # Fixed ids and no date: a plot drawn twice is the same file.
    mpl.rcParams["svg.hashsalt"] = "hedge"
    for name, figure in draw(args.kind, args.files).items():
        save(figure, name, args.out)
        say(f"hedge plot: {args.out / name}.png and .svg")


def draw(kind: str, files: Sequence[Path]) -> "dict[str, Figure]":
    """Figures by name. BadInput when a file is of another kind, or lacks what a figure shows."""
    from research import bench_figures, figures, gelato_figures, wireless_figures

    # By kind: the files' kind, and the functions.
    functions: dict[str, tuple[str, Mapping[str, Callable[[Any], Figure]]]] = {
        "bench": ("bench", bench_figures.FIGURES),
        "gelato": ("gelato", gelato_figures.FIGURES),
        "wireless": ("wireless", wireless_figures.FIGURES),
        "skips": ("answers", {"skips": figures.draw_skips}),
        **{name: ("tokens", {name: function}) for name, function in figures.TOKENS.items()},
        **{name: ("rows", {name: function}) for name, function in figures.ROWS.items()},
    }
    wanted, named = functions[kind]
    content = read_files(wanted, files)
    where = ", ".join(map(str, files))
    if not content:
        raise BadInput(f"nothing to draw in {where}")
    try:
        return {name: function(content) for name, function in named.items()}
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise BadInput(f"{where} cannot be drawn as {kind}: {error!r}") from None


def read_files(wanted: str, files: Sequence[Path]) -> Any:
    if wanted == "answers":
        runs = {}
        for file in files:
            header, entries = read_journal(file, wanted)
            runs[str(header["run"])] = parse_answers(file, entries)
        return runs
    entries = [entry for file in files for entry in read_journal(file, wanted)[1]]
    if wanted != "rows":
        return entries
    # Of a point replayed with several times, the last.
    return list({tuple(row.get(name) for name in POINT): row for row in entries}.values())


def save(figure: "Figure", name: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png", dpi=130)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    except OSError as error:
        raise HedgeError(f"cannot write to {folder}: {error.strerror}") from None
