"""The llm system: the cloud generates alone, a token a message."""

from collections.abc import AsyncGenerator

from hedge.common.errors import Disconnected
from hedge.edge_client.engine.sequence import Sequence, Token
from hedge.edge_client.engine.statistics import Statistics
from hedge.edge_client.engine.verification.base import token_of
from hedge.edge_client.transport.connection import Connection


async def streamed(
    connection: Connection,
    sequence: Sequence,
    statistics: Statistics,
    vocab_size: int,
    *,
    fails: bool,
) -> AsyncGenerator[Token]:
    """Yields the cloud's tokens. A dead link raises where `fails` is set, else it is regained."""
    while True:
        try:
            if not connection.is_open:
                await connection.open(sequence.ids, len(sequence))
            if (verdict := await connection.receive()) is None:
                return
        except Disconnected as error:
            if fails:
                raise
            await connection.lose(error)
            await connection.regain(error)
            continue
        statistics.record(verdict, 0)
        sequence.append_bonus(token_of(verdict, "bonus", vocab_size))
        sequence.tell(len(sequence) - 1, verdict)
        for token in sequence.release():
            yield token
