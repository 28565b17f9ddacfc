"""What the two programs share: options from a TOML file, errors in one line, exit statuses."""

import argparse
import contextlib
import logging
import os
import re
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn, TextIO

from hedge.common.errors import BadInput, HedgeError
from hedge.common.files import TEXT
from hedge.common.model_options import DTYPES, ModelOptions, is_gguf

MODEL_HELP = "model folder, .gguf file, hf:OWNER/REPO[/FILE.gguf], or `bundled` (default)"
CONFIG_VARIABLE = "HEDGE_CONFIG"
FAILURE = 1
BAD_USE = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line with exit status 2."""

    @property
    def flags(self) -> list[str]:
        """All of them, in their order."""
        return [
            flag
            for action in self._actions
            for flag in action.option_strings
            if flag.startswith("--")
        ]

    @property
    def lists(self) -> frozenset[str]:
        """The flags that take several values at once."""
        return frozenset(
            flag
            for action in self._actions
            if action.nargs == "+"
            for flag in action.option_strings
        )

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_USE, f"{self.prog}: {message}\n")


def command_parser(prog: str, description: str, examples: str) -> Parser:
    parser = Parser(
        prog=prog,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="options from a TOML file, or from $HEDGE_CONFIG; the command line wins",
    )
    parser.add_argument("--verbose", action="store_true", help="log what happens to stderr")
    return parser


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parses `arguments`, those of --config first. Also sets up logging."""
    if arguments is _DESCRIBE:
        raise _Described(parser)
    first = Parser(prog=parser.prog, add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    config = first.parse_known_args(arguments)[0].config or os.environ.get(CONFIG_VARIABLE)
    # A log that cannot be written is lost; a traceback about it would not get there either.
    logging.raiseExceptions = False
    parsed = parser.parse_args([*(_from_file(Path(config), parser) if config else []), *arguments])
    logging.basicConfig(
        level=logging.INFO if parsed.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    return parsed


_DESCRIBE: tuple[str, ...] = ("--describe",)


class _Described(Exception):
    """Carries the parser of a command out of it."""

    def __init__(self, parser: Parser) -> None:
        super().__init__()
        self.parser = parser


def find_parser(where: str) -> Parser:
    """The parser of the command at MODULE:FUNCTION, which is not run."""
    module, _, name = where.partition(":")
    try:
        getattr(import_module(module), name)(_DESCRIBE)
    except _Described as found:
        return found.parser
    raise AssertionError(f"{where} does not parse what it is given")


def _from_file(path: Path, parser: Parser) -> list[str]:
    try:
        options = tomllib.loads(path.read_text(TEXT))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not TOML: {error}") from None
    arguments: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if flag not in parser.flags:
            near = get_close_matches(flag, parser.flags, 1)
            raise BadInput(
                f"{path}: {parser.prog} has no option "
                f"{name!r}{f'; is it {near[0][2:]}?' if near else ''}"
            )
        if isinstance(value, dict):
            raise BadInput(f"{path}: [{name}] is a table; options stand at the top level")
        if value is True:
            arguments.append(flag)
        elif flag in parser.lists:
            arguments += [flag, *map(str, value if isinstance(value, list) else [value])]
        elif value is not False:
            arguments += [
                f"{flag}={item}" for item in (value if isinstance(value, list) else [value])
            ]
    return arguments


def size(text: str) -> int:
    """Bytes of 512M, 1.5G or 1000000: powers of 1,024."""
    found = re.fullmatch(
        r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]?)(?:i?B)?", text, re.IGNORECASE | re.ASCII
    )
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 512M or 2G")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def add_runtime(parser: Parser) -> None:
    """How the models of a command are run."""
    group = parser.add_argument_group("how models run")
    group.add_argument(
        "--dtype", choices=DTYPES, help="folders: what torch computes in (default float32)"
    )
    group.add_argument("--device", help="folders: where torch computes, such as cuda (default cpu)")
    group.add_argument(
        "--gpu-layers",
        type=int,
        default=0,
        metavar="N",
        help=".gguf: layers that llama.cpp puts on a GPU (default 0)",
    )
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="of a model (default: torch's choice; llama.cpp: the cores)",
    )
    group.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="most tokens of an answer with its prompt (default: what the model and memory allow)",
    )


def model_options(args: argparse.Namespace, where: str | None = None) -> ModelOptions:
    """What `add_runtime` was given. BadInput for options that the only model, `where`, has no use
    for.
    """
    if where is not None and is_gguf(where):
        for name in ("dtype", "device"):
            if (value := getattr(args, name)) is not None:
                raise BadInput(
                    f"--{name} {value} is for model folders: {where} runs in llama.cpp, at the "
                    "precision of the file"
                )
    return ModelOptions(args.dtype, args.device, args.threads, args.context, args.gpu_layers)


def runtime_arguments(options: ModelOptions) -> list[str]:
    """`options` as they are typed."""
    return [
        f"--{name.replace('_', '-')}={value}" for name, value in asdict(options).items() if value
    ]


def run(prog: str, body: Callable[[], None]) -> NoReturn:
    """Runs `body` and leaves with its exit status; no traceback for what a user can cause."""
    try:
        body()
        sys.stdout.flush()
        _settle_log()
    except HedgeError as error:
        _complain(prog, str(error))
        sys.exit(BAD_USE if isinstance(error, BadInput) else FAILURE)
    except BrokenPipeError:
        # The reader of our output has left; say nothing, as other filters do.
        _drop(sys.stdout)
        sys.exit(FAILURE)
    except OSError as error:
        _complain(prog, f"{error.filename or 'output'}: {error.strerror or error}")
        _drop(sys.stdout)
        sys.exit(FAILURE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)


@dataclass(frozen=True, slots=True)
class Commands:
    """The commands of a program: MODULE:FUNCTION by name, loaded on use, and what each does.

    `explain_missing` says where a command is to be had that is not installed.
    """

    prog: str
    where: Mapping[str, str]
    summaries: Mapping[str, str]
    explain_missing: Callable[[str], str] = lambda _: ""

    def run(self, arguments: Sequence[str]) -> None:
        """Runs the command that `arguments` begin with."""
        first = arguments[0] if arguments else ""
        if first == "--version":
            sys.stdout.write(f"{self.prog} {version('hedge-hlm')}\n")
        elif first in ("", "-h", "--help"):
            sys.stdout.write(self._list())
            if not first:
                sys.exit(BAD_USE)
        elif first in self.where:
            module, _, name = self.where[first].partition(":")
            getattr(import_module(module), name)(arguments[1:])
        else:
            known = f"no command {first!r}; there are {', '.join(self.where)}"
            raise BadInput(self.explain_missing(first) or known)

    def _list(self) -> str:
        order = [name for name in self.summaries if name in self.where]
        order += [name for name in self.where if name not in self.summaries]
        width = max(map(len, order))
        lines = [f"  {name:{width}}  {self.summaries.get(name, '')}".rstrip() for name in order]
        usage = f"usage: {self.prog} COMMAND ...\n\n"
        return usage + "\n".join(lines) + f"\n\n`{self.prog} COMMAND --help` says more.\n"


def _drop(stream: TextIO) -> None:
    """What is still buffered would fail once more when the interpreter flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _settle_log() -> None:
    try:
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)


def say(line: str) -> None:
    """A line on stderr. A disk that is full of logs stops nothing."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _complain(prog: str, message: str) -> None:
    say(f"{prog}: {' '.join(message.split())}")
    _settle_log()
