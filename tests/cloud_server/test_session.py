from collections.abc import Callable, Sequence

import numpy as np
import pytest

from hedge.cloud_server.sessions.opening import make_server_info
from hedge.cloud_server.sessions.session import MAX_DRAFTS, MAX_UNTESTED, VerifierSession
from hedge.cloud_server.sessions.steps import run_alone
from hedge.cloud_server.verification import RULES
from hedge.common import codec
from hedge.common.distribution import Quantised
from hedge.common.errors import BadInput, Incompatible, NotFinite
from hedge.common.ids import ADAPTIVE, FIXED, AdaptiveIds, FixedIds
from hedge.common.model import LanguageModel, WrappedModel
from hedge.common.rpc import PROTOCOL_VERSION
from hedge.common.split import Share, encode_share
from hedge.v1 import hedge_pb2 as pb

PROMPT = [1, 2, 3]


def opening(lm: LanguageModel, **changes: object) -> pb.Open:
    fields: dict[str, object] = {
        "protocol_version": PROTOCOL_VERSION,
        "prompt_ids": PROMPT,
        "warp": pb.Warp(temperature=1, top_p=1),
        "verification": pb.VERIFICATION_SPARSE,
        "tokenizer_fingerprint": lm.tokenizer_fingerprint,
        "vocab_size": lm.vocab_size,
        "codecs": codec.VERSIONS,
        "id_codecs": [FIXED],
        "bonus": True,
        "audit": pb.AUDIT_FLOAT32,
        "end_ids": [11],
    }
    return pb.Open(**(fields | changes))  # type: ignore[arg-type]


def drafting(
    tested: Sequence[int] = (), untested: Sequence[int] = (), vocab: int = 12, **fields: object
) -> pb.Draft:
    """A Draft whose every tested token was sure to be drawn."""
    targets = [Quantised(vocab, 4, np.array([token]), np.array([16])) for token in tested]
    return pb.Draft(
        ids=FixedIds(vocab).encode([], [*untested, *tested]),
        untested=len(untested),
        proposals=[*map(codec.encode, targets)],
        **fields,  # type: ignore[arg-type]
    )


class Alone(VerifierSession):
    """A session that runs its steps at once, on a cache of its own."""

    def __init__(self, lm: LanguageModel, request: pb.Open) -> None:
        self.own = lm.kv_cache()
        super().__init__(lm, request, self.own)

    def opened(self) -> pb.Opened:
        return run_alone(self.prefill(), self.own)

    def judge(self, draft: pb.Draft) -> pb.Verdict | None:
        return run_alone(self.verify(draft), self.own)


def greedy(lm: LanguageModel, ids: list[int]) -> int:
    return int(lm.kv_cache().forward(ids, 1)[0].argmax())


@pytest.fixture(scope="module")
def lm(make_lm: Callable[..., LanguageModel]) -> LanguageModel:
    return make_lm(seed=3)


@pytest.fixture
def session(lm: LanguageModel) -> Alone:
    made = Alone(lm, opening(lm, warp=pb.Warp(temperature=0, top_p=1)))
    made.opened()
    return made


def test_a_retried_step_returns_the_cached_verdict(lm: LanguageModel, session: Alone) -> None:
    draft = drafting([5], step_id=0)
    first = session.judge(draft)
    cached = session.cached_tokens
    assert session.judge(draft) is first
    assert session.cached_tokens == cached


def test_blocks_catch_up_roll_back_and_correct_like_plain_greedy(
    lm: LanguageModel, session: Alone
) -> None:
    skipped = 4
    right = greedy(lm, [*PROMPT, 4])
    wrong = (greedy(lm, [*PROMPT, 4, right]) + 1) % 12
    verdict = session.judge(drafting([right, wrong, 2], [skipped], step_id=0))
    assert verdict is not None
    assert verdict.accepted == 1
    assert verdict.correction == greedy(lm, [*PROMPT, 4, right])
    assert not verdict.HasField("bonus")
    history = [*PROMPT, skipped, right, verdict.correction]
    follow = session.judge(drafting([greedy(lm, history)], verdicts_seen=1))
    assert follow is not None
    assert follow.accepted == 1
    assert follow.bonus == greedy(lm, [*history, greedy(lm, history)])


def test_a_message_without_ids_brings_the_next_token(lm: LanguageModel, session: Alone) -> None:
    history = list(PROMPT)
    for _ in range(3):
        verdict = session.judge(drafting())
        assert verdict is not None
        assert (verdict.accepted, verdict.bonus) == (0, greedy(lm, history))
        history.append(verdict.bonus)
    # Not where others follow, nor behind what was released untested.
    for draft in (drafting(more=True), drafting(untested=[4], verdicts_seen=3)):
        plain = session.judge(draft)
        assert plain is not None
        assert not plain.HasField("bonus")


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_the_audit_covers_catch_up_and_tested_positions(
    lm: LanguageModel, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a catch-up is, few distributions are held at a time."""
    monkeypatch.setattr("hedge.cloud_server.sessions.session.CHUNK", chunk)
    session = Alone(lm, opening(lm))
    session.opened()
    verdict = session.judge(drafting([5], [4, 7, 2]))
    assert verdict is not None
    targets = lm.kv_cache().forward([*PROMPT, 4, 7, 2])[2:]
    expected = [np.exp(z.astype(np.float64)) / np.exp(z.astype(np.float64)).sum() for z in targets]
    found = np.frombuffer(verdict.audit, "<f4")
    assert np.allclose(
        found, [y[d] for y, d in zip(expected, (4, 7, 2, 5), strict=True)], rtol=1e-4
    )


def test_an_audit_without_drafts(lm: LanguageModel, session: Alone) -> None:
    verdict = session.judge(drafting([], [4, 7]))
    assert verdict is not None
    assert len(verdict.audit) == 8
    assert verdict.accepted == 0


def test_a_draft_that_missed_a_correction_is_dropped_unread(
    lm: LanguageModel, session: Alone
) -> None:
    wrong = (greedy(lm, PROMPT) + 1) % 12
    first = session.judge(drafting([wrong], more=True))
    assert first is not None
    assert first.HasField("correction")
    assert session.judge(pb.Draft(ids=b"never read", more=True)) is None
    assert session.judge(pb.Draft(ids=b"never read")) is None
    assert session.judge(drafting([1], verdicts_seen=1)) is not None


def test_after_a_draft_without_more_everything_has_been_seen(
    lm: LanguageModel, session: Alone
) -> None:
    wrong = (greedy(lm, PROMPT) + 1) % 12
    assert session.judge(drafting([wrong])) is not None
    follow = session.judge(drafting([1]))
    assert follow is not None
    assert follow.step_id == 1


def coupled(ids: Sequence[int], **fields: object) -> pb.Draft:
    return pb.Draft(ids=FixedIds(12).encode([], ids), **fields)  # type: ignore[arg-type]


AHEAD = {
    "warp": pb.Warp(temperature=0, top_p=1),
    "verification": pb.VERIFICATION_COUPLED,
    "guarantee": pb.GUARANTEE_EXACT,
    "audit": pb.AUDIT_NONE,
    "bonus_ahead": True,
}


def own(lm: LanguageModel, count: int) -> list[int]:
    """The LLM's own answer, none of whose ids may be an end."""
    ids = list(PROMPT)
    for _ in range(count):
        ids.append(greedy(lm, ids))
    assert 11 not in ids
    return ids[len(PROMPT) :]


def test_the_next_draft_begins_with_the_bonus_which_is_not_judged_again(lm: LanguageModel) -> None:
    session = Alone(lm, opening(lm, **AHEAD))
    answer = own(lm, 8)
    session.opened()
    for step, (first, last) in enumerate([(0, 2), (2, 4), (4, 5), (5, 7)]):
        verdict = session.judge(coupled(answer[first:last]))
        assert verdict is not None
        assert (verdict.step_id, verdict.accepted, verdict.bonus) == (
            step,
            last - first,
            answer[last],
        )
        # Each pass is over what the one before it was not: the first has the prompt's last id
        # besides.
        assert verdict.timings.positions == last - first + (step == 0)


def test_a_draft_that_contradicts_the_bonus_is_dropped_with_all_behind_it(
    lm: LanguageModel,
) -> None:
    session = Alone(lm, opening(lm, **AHEAD))
    answer = own(lm, 6)
    wrong = (answer[2] + 1) % 11
    session.opened()
    first = session.judge(coupled(answer[:2]))
    assert first is not None
    assert first.bonus == answer[2]
    assert session.judge(coupled([wrong, 5])) is None
    assert session.judge(coupled([5, 5])) is None
    verdict = session.judge(coupled(answer[2:4], verdicts_seen=1))
    assert verdict is not None
    assert (verdict.step_id, verdict.accepted, verdict.bonus) == (3, 2, answer[4])
    # A rejection is one as ever, and what has not seen it is dropped.
    rejecting = session.judge(coupled([answer[4], (answer[5] + 1) % 11]))
    assert rejecting is not None
    assert (rejecting.accepted, rejecting.correction) == (1, answer[5])
    assert session.judge(coupled([5])) is None
    # A repeated step has its verdict again, and changes nothing.
    assert session.judge(coupled([5], step_id=4)) is rejecting


@pytest.mark.parametrize(
    "changes",
    [
        {"verification": pb.VERIFICATION_SPLIT},
        {"guarantee": pb.GUARANTEE_OPPORTUNISTIC},
        {"audit": pb.AUDIT_BYTE},
        {"bonus": False},
    ],
)
def test_a_bonus_ahead_is_for_exact_coupled_sessions(
    lm: LanguageModel, changes: dict[str, object]
) -> None:
    with pytest.raises(BadInput, match="bonus_ahead goes only with verification coupled"):
        Alone(lm, opening(lm, **AHEAD | changes))


def test_position_rolls_the_history_back(lm: LanguageModel, session: Alone) -> None:
    session.judge(drafting([], [4, 4, 4, 4]))
    verdict = session.judge(drafting([0], [7], position=1))
    assert verdict is not None
    expected = greedy(lm, [*PROMPT, 4, 7])
    assert (verdict.correction if verdict.HasField("correction") else 0) == expected


def test_a_replayed_session_goes_on_where_the_first_one_was(lm: LanguageModel) -> None:
    """Same key, same positions: a server that never saw the session gives the verdict the first one
    would have.
    """
    first = Alone(lm, opening(lm, seed=8))
    other = None
    first.opened()
    done = first.judge(drafting([5], step_id=0))
    assert done is not None
    token = done.correction if done.HasField("correction") else 5
    other = Alone(lm, opening(lm, seed=8, prompt_ids=[*PROMPT, token], resume_position=1))
    other.opened()
    draft = drafting([6], step_id=1, verdicts_seen=1, position=1)
    again = other.judge(draft)
    expected = first.judge(draft)
    assert again is not None
    assert expected is not None
    assert (again.accepted, again.correction) == (expected.accepted, expected.correction)


def test_the_stream_is_plain_decoding(lm: LanguageModel) -> None:
    request = opening(
        lm,
        verification=pb.VERIFICATION_STREAM,
        warp=pb.Warp(temperature=0, top_p=1),
        max_new_tokens=9,
    )
    session = Alone(lm, request)
    session.opened()
    found: list[int] = []
    while (verdict := run_alone(session.next_token(), session.own)) is not None:
        found.append(verdict.bonus)
    history = list(PROMPT)
    while len(history) < 12 and history[-1] != 11:
        history.append(greedy(lm, history))
    assert found == history[3:]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"protocol_version": 9}, Incompatible, "version 9"),
        ({"tokenizer_fingerprint": "abc"}, Incompatible, "abc"),
        ({"vocab_size": 99}, Incompatible, "99"),
        ({"verification": 77}, Incompatible, "77"),
        ({"codecs": [250]}, Incompatible, "250"),
        ({"prompt_ids": []}, BadInput, "0 ids"),
        ({"prompt_ids": [1] * 65}, BadInput, "65 ids"),
        ({"prompt_ids": [12]}, BadInput, "id 12"),
        ({"end_ids": [4_000_000_000]}, BadInput, "4000000000"),
        ({"resume_position": 3}, BadInput, "resume position 3"),
        ({"law_entries": 5, "guarantee": pb.GUARANTEE_EXACT}, BadInput, "cut to 5 entries"),
        ({"warp": pb.Warp(temperature=-1, top_p=1)}, BadInput, "temperature -1"),
        ({"warp": pb.Warp(temperature=float("nan"), top_p=1)}, BadInput, "temperature nan"),
        ({"warp": pb.Warp(temperature=1, top_p=0)}, BadInput, "top-p 0"),
    ],
)
def test_bad_openings_name_the_value(
    lm: LanguageModel, changes: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Alone(lm, opening(lm, **changes))


@pytest.mark.parametrize(
    ("draft", "words"),
    [
        (drafting(position=1), "position 1 after 0"),
        (drafting([], [12], vocab=13), "id 12"),
        (drafting([], [1] * 62), "62 ids in a message, at most 61"),
        (pb.Draft(ids=b"\xc8"), "id 200"),
        (pb.Draft(ids=b"\1"), "0 proposals for 1 drafts"),
        (pb.Draft(ids=b"\1", untested=2), "2 untested ids of 1"),
        (pb.Draft(ids=b"\1", proposals=[b""]), "codec version missing"),
        (pb.Draft(ids=b"\1", proposals=[b"\x01\xff\xff"]), "dis|ids|counts"),
        (drafting([1] * (MAX_DRAFTS + 1)), "at most"),
    ],
)
def test_bad_drafts_name_the_value_and_change_nothing(
    session: Alone, draft: pb.Draft, words: str
) -> None:
    before = session.cached_tokens
    with pytest.raises(BadInput, match=words):
        session.judge(draft)
    assert session.cached_tokens == before
    assert session.judge(drafting([1], step_id=0)) is not None


@pytest.mark.parametrize("seed", range(200))
def test_a_client_that_agrees_on_one_id_codec_and_writes_another(
    seed: int, lm: LanguageModel
) -> None:
    """What cannot be told from ids is ids, all of them valid; everything else is refused, and
    nothing has changed.
    """
    session = Alone(lm, opening(lm, id_codecs=[ADAPTIVE], verification=pb.VERIFICATION_COUPLED))
    session.opened()
    rng = np.random.default_rng(seed)
    data = FixedIds(12).encode(
        [], [int(token) for token in rng.integers(0, 12, rng.integers(1, 20))]
    )
    try:
        verdict = session.judge(pb.Draft(ids=data))
        assert verdict is not None
        assert verdict.accepted <= MAX_DRAFTS
    except BadInput:
        assert session.cached_tokens == len(PROMPT) - 1
        assert session.judge(pb.Draft(ids=AdaptiveIds(12).encode(PROMPT, [1, 2]))) is not None


@pytest.mark.parametrize("codec_of_ids", [FIXED, ADAPTIVE])
def test_the_llms_own_tokens_end_with_its_context(lm: LanguageModel, codec_of_ids: int) -> None:
    session = Alone(lm, opening(lm, id_codecs=[codec_of_ids], end_ids=[]))
    session.opened()
    empty = FixedIds(12) if codec_of_ids == FIXED else AdaptiveIds(12)
    for _ in range(lm.context - len(PROMPT) + 1):
        verdict = session.judge(pb.Draft(ids=empty.encode(session.history, [])))
        assert verdict is not None
        assert verdict.HasField("bonus")
    with pytest.raises(
        BadInput, match=f"a draft behind {lm.context + 1} ids in a context of {lm.context}"
    ):
        session.judge(pb.Draft(ids=empty.encode(session.history, [])))
    assert len(session.history) == lm.context + 1


def test_a_step_that_has_no_next_is_refused(session: Alone) -> None:
    with pytest.raises(BadInput, match=f"step {2**64 - 1} is not below"):
        session.judge(drafting([1], step_id=2**64 - 1))
    assert session.judge(drafting([1], step_id=2**64 - 2))
    with pytest.raises(BadInput, match=f"step {2**64 - 1} is not below"):
        session.judge(drafting([1], verdicts_seen=2**64 - 1))


def test_an_old_step_is_refused(session: Alone) -> None:
    session.judge(drafting([1], step_id=5))
    with pytest.raises(BadInput, match="step 2 after step 5"):
        session.judge(drafting([1], step_id=2, verdicts_seen=6))


class Broken(WrappedModel):
    """A real model whose logits are NaN or infinite in one place, after a token, or after all of
    them.
    """

    def __init__(self, lm: LanguageModel, after: int | None, number: float) -> None:
        super().__init__(lm)
        self.after = after
        self.number = number

    def kv_cache(self) -> "BrokenCache":
        return BrokenCache(self)


class BrokenCache:
    def __init__(self, lm: Broken) -> None:
        self._lm = lm
        self._cache = lm.lm.kv_cache()
        self.rollback = self._cache.rollback

    @property
    def length(self) -> int:
        return self._cache.length

    def forward(self, ids: Sequence[int], rows: int | None = None) -> np.ndarray:
        found = self._cache.forward(ids, rows)
        for row, token in zip(found[::-1], ids[::-1], strict=False):
            if self._lm.after in (None, token):
                row[3] = self._lm.number
        return found


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("verification", list(RULES))
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_numbers_that_are_none_end_the_session(
    number: float, verification: "pb.Verification.ValueType", temperature: float, lm: LanguageModel
) -> None:
    """At the first position, whatever was drafted there."""
    streams = verification == pb.VERIFICATION_STREAM
    broken = Broken(lm, PROMPT[-1], number)
    warp = pb.Warp(temperature=temperature, top_p=1)
    session = Alone(
        broken, opening(lm, verification=verification, warp=warp, bits=4, max_new_tokens=5)
    )
    session.opened()
    draft = drafting([1, 7, 2])
    if verification == pb.VERIFICATION_SPLIT:
        draft.proposals[:] = [encode_share(Share(12, 4, 16)) for _ in range(3)]
    elif verification == pb.VERIFICATION_COUPLED:
        del draft.proposals[:]
    steps = session.next_token() if streams else session.verify(draft)
    with pytest.raises(NotFinite, match="the model gave no finite logits at position 0"):
        run_alone(steps, session.own)


def test_a_number_that_is_none_behind_a_rejection_is_never_looked_at(lm: LanguageModel) -> None:
    """The LLM alone would not have come there. Where a draft brings it there, the session ends."""
    warp = pb.Warp(temperature=0, top_p=1)
    own = greedy(lm, PROMPT)
    other = next(token for token in range(11) if token not in (own, *PROMPT))
    verdicts = []
    for model in (lm, Broken(lm, other, np.nan)):
        session = Alone(model, opening(lm, warp=warp, verification=pb.VERIFICATION_COUPLED))
        session.opened()
        draft = drafting([other, 1, 2])
        del draft.proposals[:]
        verdict = session.judge(draft)
        assert verdict is not None
        verdict.ClearField("timings")
        verdicts.append(verdict)
    assert verdicts[0] == verdicts[1]
    assert (verdicts[0].accepted, verdicts[0].correction) == (0, own)
    session = Alone(
        Broken(lm, own, np.nan), opening(lm, warp=warp, verification=pb.VERIFICATION_COUPLED)
    )
    session.opened()
    draft = drafting([own, 1])
    del draft.proposals[:]
    with pytest.raises(NotFinite, match="at position 1"):
        session.judge(draft)


def test_the_llms_own_ends_end_an_answer_too(make_lm: Callable[..., LanguageModel]) -> None:
    """The client's files lack them. What was drafted behind such an end is dropped untested."""
    lm = make_lm(eos=7)
    prompt = next([a, b] for a in range(11) for b in range(11) if greedy(lm, [a, b]) == 7)
    warp = pb.Warp(temperature=0, top_p=1)
    session = Alone(
        lm,
        opening(
            lm, prompt_ids=prompt, end_ids=[11], verification=pb.VERIFICATION_COUPLED, warp=warp
        ),
    )
    session.opened()
    draft = drafting([7, greedy(lm, [*prompt, 7])])
    del draft.proposals[:]
    verdict = session.judge(draft)
    assert verdict is not None
    assert (verdict.accepted, verdict.HasField("correction"), verdict.HasField("bonus")) == (
        1,
        False,
        False,
    )
    assert make_server_info(lm).end_ids == [7]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"processors": pb.LogitsProcessors()}, "repetition-penalty 0 is not in"),
        (
            {"processors": pb.LogitsProcessors(repetition_penalty=1, bias_ids=[1])},
            "1 ids with 0 biases",
        ),
        (
            {"processors": pb.LogitsProcessors(repetition_penalty=1, bias_ids=[99], biases=[1])},
            "id 99 in a vocabulary of 12",
        ),
        (
            {
                "processors": pb.LogitsProcessors(
                    repetition_penalty=1, bias_ids=[1], biases=[float("nan")]
                )
            },
            "logit-bias 1=nan",
        ),
        (
            {"processors": pb.LogitsProcessors(repetition_penalty=1, grammar="x" * 100_000)},
            "a grammar of 100000 characters",
        ),
        ({"logprobs": 21}, "log-probabilities of 21 tokens, at most 20"),
        ({"warp": pb.Warp(temperature=1, top_p=1, min_p=2)}, "min-p 2 is not in 0..1"),
    ],
)
def test_processors_that_make_no_sense_are_refused(
    changes: dict[str, object], words: str, lm: LanguageModel
) -> None:
    with pytest.raises(BadInput, match=words):
        Alone(lm, opening(lm, **changes))


def test_a_message_has_only_so_many_ids_whatever_the_context(
    make_lm: Callable[..., LanguageModel],
) -> None:
    """A message that is too long is refused before all of it is read."""
    session = Alone(long := make_lm(context=4096), opening(long))
    session.opened()
    with pytest.raises(
        BadInput, match=f"4000 ids in a message, at most {MAX_UNTESTED + MAX_DRAFTS}"
    ):
        session.judge(drafting([], [1] * 4000))
    with pytest.raises(
        BadInput, match=f"{MAX_UNTESTED + 1} untested ids in a message, at most {MAX_UNTESTED}"
    ):
        session.judge(drafting([], [1] * (MAX_UNTESTED + 1)))
    verdict = session.judge(drafting([2] * MAX_DRAFTS, [1] * MAX_UNTESTED))
    assert verdict is not None


def test_forced_ids_where_nothing_forces_them_are_refused(session: Alone) -> None:
    session.opened()
    with pytest.raises(BadInput, match="3 forced ids in a session whose drafts have none"):
        session.judge(drafting([1], forced=3))
