"""One harness over real gRPC: whatever a journal lacks is asked for, and its row appended."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from hedge.common.command import command_parser
from hedge.edge_client.calibrations import Pair
from hedge.edge_client.cli.options import add_system, add_warp
from hedge.edge_client.cli.settings import resolved
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation.record import Journal
from hedge.evaluation.systems import parse_system
from hedge.evaluation.tables import Field, read

Row = dict[str, Any]
Key = tuple[Any, ...]


def configure(spec: str, pair: Pair, *words: str) -> GenerationConfig:
    """The settings of NAME:OPTION=VALUE,... and of these words of a command line."""
    parser = command_parser("bench", "", "")
    add_system(parser)
    add_warp(parser)
    return resolved(parse_system(spec, parser.parse_args(words)), pair)


async def ask_all(
    journal: Journal,
    fields: Sequence[Field],
    wanted: Mapping[Key, Callable[[], Awaitable[Row]]],
    what: str,
    together: int = 1,
) -> None:
    """Calls what is wanted in its order, but for the keys that the journal has; appends the rows.

    A key is what a row holds in `fields`; those that are names are written in front of the row.
    So many calls go on `together`.
    """
    done = {tuple(read(row, field) for field in fields) for row in journal.entries}
    left = {key: ask for key, ask in wanted.items() if key not in done}
    waiting = iter(left.items())

    async def work(progress: Any) -> None:
        for key, ask in waiting:
            pairs = zip(fields, key, strict=True)
            named = {name: value for name, value in pairs if isinstance(name, str)}
            journal.append(named | await ask())
            progress.update()

    with tqdm(total=len(left), desc=what, unit="answer", disable=None) as progress:
        await asyncio.gather(*(work(progress) for _ in range(together)))


def count_answer(session: Session) -> Row:
    """What an answer came to, for rows that are compared and summed."""
    statistics = session.statistics
    return {
        "token_ids": session.token_ids,
        "tokens": statistics.tokens,
        "rounds": statistics.rounds,
        "slm_steps": statistics.steps,
        "llm_positions": statistics.llm_positions,
        "near_ties": statistics.near_ties,
        "wall_s": round(statistics.wall_s, 6),
    }
