"""One session: the history of one stream, its KV cache, and the verdicts on its drafts. Knows no
gRPC context.
"""

import time
from collections.abc import Sequence

import numpy as np

from hedge.cloud_server.sessions.opening import check_open, id_codecs, make_processor
from hedge.cloud_server.sessions.steps import Cost, Draws, Feed, Rows, SessionCache, Steps
from hedge.cloud_server.sessions.targets import Targets
from hedge.cloud_server.verification import make_rule
from hedge.cloud_server.verification.base import (
    ClaimedDraft,
    Drawn,
    Outcome,
    Target,
    to_audit_byte,
    verify_block,
)
from hedge.cloud_server.verification.near_ties import is_near_tie
from hedge.common import codec, ids
from hedge.common.coupling import race_noise
from hedge.common.errors import BadInput
from hedge.common.ids import MAX_UNTESTED
from hedge.common.logits import logprobs
from hedge.common.model import LanguageModel
from hedge.common.noise import Noise
from hedge.common.sampling import largest
from hedge.v1 import hedge_pb2 as pb

MAX_DRAFTS = 64
# A message that follows has a number of 64 bits too.
STEP_LIMIT = (1 << 64) - 1
# Distributions of |V| float64 each are held for so many untested positions at a time.
CHUNK = 64


class VerifierSession:
    """Verifies against one growing, rollable history.

    The cache always lags the history by at least one id, so that the row that judges the next
    position is computed by the forward pass that needs it. What needs the model is written as
    Steps: whoever runs them may batch sessions.
    """

    def __init__(
        self,
        lm: LanguageModel,
        request: pb.Open,
        prefix: SessionCache,
        context: int | None = None,
        difference: float = 0.0,
    ) -> None:
        """`difference`: by how much rounding moves a logit; 0 where it moves none, and no near ties
        are counted.
        """
        self._lm = lm
        self._difference = difference
        self._context = context or lm.context
        self._warp = check_open(request, lm, self._context)
        self._audit = request.audit
        self.streams = request.verification == pb.VERIFICATION_STREAM
        self._exact = request.guarantee == pb.GUARANTEE_EXACT
        self._law_entries = request.law_entries
        self._bonus = request.bonus
        self._ahead = request.bonus_ahead
        self._end_ids = frozenset([*request.end_ids, *lm.end_ids])
        self._processor = make_processor(request, lm, self._end_ids)
        # Of how many tokens besides each; None where no log-probabilities are wanted.
        self._logprobs = request.logprobs if request.HasField("logprobs") else None
        self.wants_rows = bool(self._processor.options) or self._logprobs is not None
        self._max_new_tokens = request.max_new_tokens
        self._history = list(request.prompt_ids)
        self._prompt = len(self._history) - request.resume_position
        self._rule = make_rule(request, Noise(request.seed, self._history[: self._prompt]))
        # Whether messages come without the ids that the grammar forces.
        self._leaves_forced = (
            bool(self._processor.options.grammar)
            and request.verification == pb.VERIFICATION_COUPLED
        )
        self._id_version = id_codecs(request, lm)[0]
        self._ids = ids.id_codec(self._id_version, lm.vocab_size, lm.primer)
        self._prefix = prefix
        self._last: pb.Verdict | None = None
        # The distribution in it, whole.
        self._probs: np.ndarray | None = None
        self._next_step = 0
        # Whether the client may have sent more before it saw the last verdict.
        self._seen = 0
        self._more = self._ahead
        self._correction_step = -1
        # The bonus that the next Draft begins with.
        self._told: int | None = None
        self.cost = Cost()
        # Positions through the model so far; tested and untested ids of the last Draft.
        self.spent = 0
        self.judged = (0, 0)
        # What the quotas know of the history.
        self.counted = len(self._history)

    @property
    def history(self) -> Sequence[int]:
        return self._history

    @property
    def cached_tokens(self) -> int:
        return self._prefix.length

    @property
    def _generated(self) -> int:
        return len(self._history) - self._prompt

    def prefill(self) -> Steps[pb.Opened]:
        """Runs the prompt through the model, its last id excepted."""
        yield from self._forward(self._history[:-1], 0)
        return pb.Opened(
            cached_length=self._prefix.length, codec=codec.VERSION, id_codec=self._id_version
        )

    def _forward(
        self, ids: list[int], rows: int, *, drawn: bool = False, stream: int = 0
    ) -> Steps[Rows]:
        """The logits after each of the last `rows` of `ids`, all of which the cache holds then, or
        what is drawn from them.
        """
        started = time.perf_counter()
        before = self._prefix.length
        if before >= len(ids):
            return np.empty((0, self._lm.vocab_size), np.float32)
        draws = (
            Draws(self._warp, self._rule.noise, len(ids) - rows + 1 - self._prompt)
            if drawn
            else None
        )
        found = yield Feed(ids, rows, draws, stream)
        self.cost.seconds += time.perf_counter() - started
        self.cost.positions += len(ids) - before
        self.spent += len(ids) - before
        return found

    def verify(self, draft: pb.Draft) -> Steps[pb.Verdict | None]:
        """The verdict on `draft`: the cached one for a repeated step, None for a draft that missed
        a correction.
        """
        step = draft.step_id if draft.HasField("step_id") else self._next_step
        if self._last is not None and step == self._last.step_id:
            return self._repeat(whole=draft.whole_probs)
        if step >= STEP_LIMIT:
            raise BadInput(f"step {step} is not below 2^64 - 1")
        if step < self._next_step:
            raise BadInput(f"step {step} after step {self._next_step - 1}")
        seen = self._seen if self._more else self._next_step
        if draft.HasField("verdicts_seen"):
            seen = draft.verdicts_seen
        if seen <= self._correction_step:
            self._next_step = step + 1
            self._more = self._ahead or draft.more
            return None
        position, untested, proposals = self._read(draft)
        self._next_step = step + 1
        self._seen = seen
        self._more = self._ahead or draft.more
        self.judged = (len(proposals), len(untested))
        told = self._told is not None and position == self._generated - 1
        if told and not (proposals and proposals[0].token == self._told):
            # What was drafted there is not the LLM's token; the client will hear of it.
            assert self._last
            self._correction_step = self._last.step_id
            return None
        # A message without ids asks for the LLM's own next token.
        bonus = self._bonus and not draft.more and (bool(proposals) or not untested)
        if told:
            position += 1
            proposals = proposals[1:]
        self._roll_back(self._prompt + position)
        self.cost = Cost()
        shares, untested = yield from self._catch_up(untested)
        verdict = yield from self._judge(step, untested, proposals, shares, bonus=bonus)
        verdict.accepted += told
        return verdict

    def _catch_up(self, untested: list[int]) -> Steps[tuple[list[float], list[int]]]:
        """Feeds untested ids until one chunk is left; the shares of those fed, and the rest."""
        shares: list[float] = []
        while len(untested) > CHUNK:
            head = untested[:CHUNK]
            untested = untested[CHUNK:]
            position = self._generated
            self._history += head
            rows = yield from self._rows([], CHUNK, bonus=False)
            shares += self._shares(head, self._targets(rows, position, self._history))
        return shares, untested

    def _judge(
        self,
        step: int,
        untested: list[int],
        proposals: list[ClaimedDraft],
        shares: list[float],
        *,
        bonus: bool,
    ) -> Steps[pb.Verdict]:
        """The verdict on a block behind its last untested ids, in one forward pass."""
        self._history += untested
        first = self._generated
        rows = yield from self._rows(proposals, len(untested), bonus=bonus)
        ahead = [*self._history, *(proposal.token for proposal in proposals)]
        targets = self._targets(rows, first - len(untested), ahead)
        outcome = verify_block(
            self._rule, step, first, proposals, targets[len(untested) :], self._end_ids
        )
        verdict = self._answer(step, outcome, untested, proposals, targets, shares)
        rejected = outcome.correction is not None or outcome.probs is not None
        tested = outcome.accepted + (rejected or outcome.bonus is not None)
        judged = targets[len(untested) : len(untested) + tested]
        verdict.near_ties = self._near_ties(first, judged)
        verdict.logprobs.extend(self._logprobs_of(judged, self._history[self._prompt + first :]))
        self._last = verdict
        self._told = outcome.bonus if self._ahead else None
        if rejected:
            self._correction_step = step
        return verdict

    def _repeat(self, *, whole: bool) -> pb.Verdict:
        assert self._last is not None
        if not whole or self._probs is None:
            return self._last
        repeated = pb.Verdict()
        repeated.CopyFrom(self._last)
        repeated.probs.CopyFrom(_probs(self._probs, 0))
        return repeated

    def _read(self, draft: pb.Draft) -> tuple[int, list[int], list[ClaimedDraft]]:
        """Position, untested ids and proposals of a message, every number checked."""
        if self.streams:
            raise BadInput("a draft in a session that streams")
        held = self._generated - (self._told is not None)
        position = draft.position if draft.HasField("position") else held
        if position > self._generated:
            raise BadInput(f"position {position} after {self._generated} generated tokens")
        start = self._prompt + position
        if start > self._context:
            raise BadInput(f"a draft behind {start} ids in a context of {self._context}")
        some = bool(draft.ids) or not draft.forced
        most = min(
            self._context - start,
            MAX_DRAFTS + (self._rule.client_draws if self._exact else MAX_UNTESTED),
        )
        tokens = self._ids.decode(self._history[:start], draft.ids, most) if some else []
        tokens = self._with_forced(self._history[:start], tokens, draft.forced, most)
        if draft.untested > len(tokens):
            raise BadInput(f"{draft.untested} untested ids of {len(tokens)}")
        if draft.untested > MAX_UNTESTED:
            raise BadInput(f"{draft.untested} untested ids in a message, at most {MAX_UNTESTED}")
        untested = tokens[: draft.untested]
        tested = tokens[draft.untested :]
        if len(tested) > MAX_DRAFTS:
            raise BadInput(f"{len(tested)} drafts in a message, at most {MAX_DRAFTS}")
        if self._exact and len(untested) > self._rule.client_draws:
            raise BadInput(f"{len(untested)} untested ids in a session whose guarantee is exact")
        return position, untested, self._rule.read(tested, draft.proposals, self._lm.vocab_size)

    def _with_forced(
        self, before: list[int], tokens: list[int], behind: int, most: int
    ) -> list[int]:
        """The ids of a message with those that the grammar forces, `behind` of them after the last;
        `most` in all.
        """
        if not self._leaves_forced:
            if behind:
                raise BadInput(f"{behind} forced ids in a session whose drafts have none")
            return tokens
        if behind > most:
            raise BadInput(f"{behind} forced ids in a message, at most {most}")
        ids = list(before)
        for token in tokens:
            while len(ids) < len(before) + most and (only := self._forced(ids)) is not None:
                ids.append(only)
            ids.append(token)
        for number in range(behind):
            if (only := self._forced(ids)) is None:
                raise BadInput(f"{behind} forced ids, and the grammar forces {number}")
            ids.append(only)
        return ids[len(before) :]

    def _forced(self, ids: list[int]) -> int | None:
        """None behind the end of an answer or of the context, and where the drafts have left the
        grammar.
        """
        if len(ids) >= self._context or (len(ids) > self._prompt and ids[-1] in self._end_ids):
            return None
        try:
            return self._processor.forced(ids)
        except BadInput:
            return None

    def _roll_back(self, length: int) -> None:
        del self._history[length:]
        self._prefix.rollback(min(self._prefix.length, length - 1))

    def _targets(self, rows: Rows, position: int, ids: list[int]) -> Sequence[Drawn] | Targets:
        if isinstance(rows, list):
            return rows
        return Targets(self._warp, self._processor, rows, position, ids, self._prompt)

    def _near_ties(self, position: int, targets: Sequence[Drawn] | Targets) -> int:
        """How many of the positions from `position` on rounding could decide."""
        if not self._difference:
            return 0
        if not isinstance(targets, Targets):
            return sum(target.near_tie for target in targets)
        return sum(self._near_tie(position + at, targets, at) for at in range(len(targets)))

    def _near_tie(self, position: int, targets: Targets, at: int) -> bool:
        drawn = self._rule.draws_by_position and not self._warp.greedy
        integers = race_noise(self._rule.noise, position, len(targets[at])) if drawn else None
        return is_near_tie(targets.logits(at), targets[at], self._warp, self._difference, integers)

    def _logprobs_of(
        self, targets: Sequence[Drawn] | Targets, tokens: list[int]
    ) -> list[pb.Logprobs]:
        """Of the tokens that the positions came to have, where they are wanted."""
        if self._logprobs is None or not isinstance(targets, Targets):
            return []
        found = [
            logprobs(targets.raw(at), token, self._logprobs)
            for at, token in enumerate(tokens[: len(targets)])
        ]
        return [
            pb.Logprobs(
                token=own,
                ids=[token for token, _ in likeliest],
                logprobs=[value for _, value in likeliest],
            )
            for own, likeliest in found
        ]

    def _rows(self, proposals: list[ClaimedDraft], untested: int, *, bonus: bool) -> Steps[Rows]:
        """Logits of every untested position, every drafted one, and the one after them if a bonus
        is wanted; one forward.
        """
        ahead = [*self._history, *(proposal.token for proposal in proposals)]
        wanted = untested + len(proposals) + bonus
        if not wanted:
            return np.empty((0, self._lm.vocab_size), np.float32)
        # Nothing else than tokens is wanted of them.
        drawn = (
            self._rule.draws_by_position
            and not self._audit
            and not untested
            and not self.wants_rows
        )
        return (yield from self._forward(ahead[: len(ahead) - (not bonus)], wanted, drawn=drawn))

    def _answer(
        self,
        step: int,
        outcome: Outcome,
        untested: list[int],
        proposals: list[ClaimedDraft],
        targets: Sequence[Target],
        shares: list[float],
    ) -> pb.Verdict:
        kept = [proposal.token for proposal in proposals[: outcome.accepted]]
        own = outcome.correction if outcome.correction is not None else outcome.bonus
        context = len(self._history)
        self._history += kept if own is None else [*kept, own]
        # The cache may hold a rejected draft, and must lag the history by one.
        self._prefix.rollback(min(self._prefix.length, context + len(kept), len(self._history) - 1))
        rejected = outcome.correction is not None or outcome.probs is not None
        self._probs = outcome.probs
        read = [
            *untested,
            *(proposal.token for proposal in proposals[: outcome.accepted + rejected]),
        ]
        shares += self._shares(read, targets)
        return pb.Verdict(
            step_id=step,
            accepted=outcome.accepted,
            correction=outcome.correction,
            bonus=outcome.bonus,
            audit=self._audit_of(shares),
            timings=pb.Timings(
                forward_us=round(self.cost.seconds * 1e6), positions=self.cost.positions
            ),
            probs=None if outcome.probs is None else _probs(outcome.probs, self._law_entries),
        )

    def _shares(self, tokens: list[int], targets: Sequence[Target]) -> list[float]:
        """y_d of each token, for the audit."""
        if not self._audit:
            return []
        known = [target for target in targets[: len(tokens)] if not isinstance(target, Drawn)]
        return [float(probs[token]) for token, probs in zip(tokens, known, strict=False)]

    def _audit_of(self, probabilities: list[float]) -> bytes:
        if self._audit == pb.AUDIT_BYTE:
            return bytes(to_audit_byte(p) for p in probabilities)
        if self._audit == pb.AUDIT_FLOAT32:
            return np.asarray(probabilities, dtype="<f4").tobytes()
        return b""

    def next_token(self) -> Steps[pb.Verdict | None]:
        """The LLM's own next token (the `llm` system), None once the answer has ended."""
        generated = self._generated
        ended = generated > 0 and self._history[-1] in self._end_ids
        if ended or generated >= self._max_new_tokens or len(self._history) >= self._context:
            return None
        if (only := self._forced(self._history)) is not None and self._logprobs is None:
            self._history.append(only)
            return pb.Verdict(step_id=generated, bonus=only)
        self.cost = Cost()
        left = min(self._max_new_tokens - generated, self._context - len(self._history))
        rows = yield from self._forward(
            self._history, 1, drawn=not self.wants_rows, stream=0 if self.wants_rows else left
        )
        targets = self._targets(rows, generated, self._history)
        target = targets[0]
        token = self._rule.bonus(generated, generated, target)
        self._history.append(token)
        timings = pb.Timings(
            forward_us=round(self.cost.seconds * 1e6), positions=self.cost.positions
        )
        near_ties = self._near_ties(generated, targets)
        logprobs = self._logprobs_of(targets, [token])
        return pb.Verdict(
            step_id=generated, bonus=token, timings=timings, near_ties=near_ties, logprobs=logprobs
        )


def _probs(probs: np.ndarray, entries: int) -> pb.Probs:
    """The largest `entries` of it, all for 0."""
    kept = np.flatnonzero(probs)
    if 0 < entries < len(kept):
        kept = largest(probs, entries)
    named = b"" if len(kept) == len(probs) else kept.astype("<u4").tobytes()
    return pb.Probs(probabilities=probs[kept].astype("<f4").tobytes(), ids=named)
