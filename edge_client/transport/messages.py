"""The opening of an answer, and what is checked of a server before and after it."""

from collections.abc import Iterator

from hedge.common import codec, ids
from hedge.common.errors import Incompatible, Unreachable
from hedge.common.logits import LogitsOptions
from hedge.common.model import LanguageModel
from hedge.common.rpc import PROTOCOL_VERSION
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.systems import GenerationConfig
from hedge.v1 import hedge_pb2 as pb

# End ids in one line.
NAMED = 6


def build_opening(
    slm: LanguageModel, config: GenerationConfig, audit: "pb.Audit.ValueType", max_new_tokens: int
) -> pb.Open:
    """The Open of an answer, without its ids and without how drafts are tested."""
    warp = config.sampling.warp
    sampling = config.sampling
    request = pb.Open(
        protocol_version=PROTOCOL_VERSION,
        warp=pb.Warp(
            temperature=warp.temperature, top_k=warp.top_k, top_p=warp.top_p, min_p=warp.min_p
        ),
        seed=config.sampling.seed,
        guarantee=pb.GUARANTEE_EXACT if config.guarantee == "exact" else pb.GUARANTEE_OPPORTUNISTIC,
        audit=audit,
        tokenizer_fingerprint=slm.tokenizer_fingerprint,
        vocab_size=slm.vocab_size,
        codecs=codec.VERSIONS,
        id_codecs=ids.versions(slm.primer),
        id_primer=slm.primer_fingerprint,
        bonus=config.verification.exact,
        end_ids=slm.end_ids,
        processors=_processors(sampling.logits) if sampling.logits else None,
        logprobs=sampling.logprobs,
    )
    if config.streams:
        request.verification = pb.VERIFICATION_STREAM
        request.max_new_tokens = max_new_tokens
    else:
        request.bonus_ahead = config.gate.policy == "survival" and audit == pb.AUDIT_NONE
    return request


def relax_guarantee(request: pb.Open) -> None:
    """For an exact answer of which tokens were released untested: from now on it is audited."""
    request.guarantee = pb.GUARANTEE_OPPORTUNISTIC
    request.audit = pb.AUDIT_BYTE
    request.bonus_ahead = False


def build_draft(
    *,
    step: int | None,
    correction: int | None,
    ids: bytes,
    untested: int,
    proposals: list[bytes],
    more: bool,
    forced: int,
) -> pb.Draft:
    """A message to verify; `step` and `correction` are None where the server expects them."""
    return pb.Draft(
        step_id=step,
        verdicts_seen=correction,
        ids=ids,
        untested=untested,
        proposals=proposals,
        more=more,
        forced=forced,
    )


def build_probs_request(step: int) -> pb.Draft:
    """Asks for the whole distribution behind the verdict on `step`."""
    return pb.Draft(step_id=step, whole_probs=True)


def _processors(options: LogitsOptions) -> pb.LogitsProcessors:
    return pb.LogitsProcessors(
        repetition_penalty=options.repetition_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        bias_ids=[token for token, _ in options.logit_bias],
        biases=[bias for _, bias in options.logit_bias],
        grammar=options.grammar,
    )


def check_rows(info: pb.ServerInfo, sampling: SamplingParams) -> None:
    """Incompatible for a server whose engine cannot do what is asked for."""
    if info.whole_rows:
        return
    what = "penalties, logit_bias and grammars" if sampling.logits else "log-probabilities"
    if sampling.logits or sampling.logprobs is not None:
        raise Incompatible(
            f"the engine of {info.model_name} has no whole rows of logits, which {what} need"
        )


def engine_of(info: pb.ServerInfo) -> str | None:
    """Whether rows of the server come out `bitwise` the same in any company, or up to `rounding`;
    None when it does not say.
    """
    if not info.HasField("exactness"):
        return None
    return "rounding" if info.exactness.difference else "bitwise"


def file_differences(info: pb.ServerInfo, slm: LanguageModel) -> Iterator[str]:
    """What the files of the cloud's model say otherwise than the device's; a line each."""
    if (
        info.chat_fingerprint
        and slm.chat_fingerprint
        and info.chat_fingerprint != slm.chat_fingerprint
    ):
        yield (
            f"{info.model_name} has another chat template than {slm.name}: prompts are written by "
            "the device's"
        )
    ends = set(info.end_ids)
    if own := sorted(ends ^ set(slm.end_ids)):
        words = ", ".join(
            f"{token} ({'the cloud' if token in ends else 'the device'})" for token in own[:NAMED]
        )
        more = f" and {len(own) - NAMED} more" if len(own) > NAMED else ""
        yield (
            f"{info.model_name} and {slm.name} end answers at different ids, and all of them "
            f"count: {words}{more}"
        )


def id_codec_of(info: pb.ServerInfo, slm: LanguageModel) -> int:
    """The best version of the id codec that both sides have. Incompatible if there is none."""
    known = ids.versions(slm.primer if info.id_primer == slm.primer_fingerprint else ())
    if both := [version for version in known if version in info.id_codecs]:
        return both[0]
    raise Incompatible(
        f"the server reads id codecs {list(info.id_codecs)}, this client writes {list(known)}"
    )


def check_opened(opened: pb.Opened, id_codec: int) -> None:
    """Unreachable for a server that reads other codecs than it said it would."""
    if (opened.codec, opened.id_codec) != (codec.VERSION, id_codec):
        raise Unreachable(
            f"the server reads codecs {opened.codec} and {opened.id_codec}, not {codec.VERSION} "
            f"and {id_codec} as agreed"
        )


def check_server(info: pb.ServerInfo, slm: LanguageModel) -> None:
    """Refuses a server that cannot judge this model's tokens, naming both values."""
    if info.protocol_version != PROTOCOL_VERSION:
        raise Incompatible(
            f"the server speaks protocol {info.protocol_version}, this client {PROTOCOL_VERSION}"
        )
    if info.tokenizer_fingerprint != slm.tokenizer_fingerprint:
        raise Incompatible(
            f"the server's tokenizer {info.tokenizer_fingerprint} ({info.model_name}, "
            f"{info.vocab_size} ids) is not "
            f"{slm.name}'s {slm.tokenizer_fingerprint} ({slm.vocab_size} ids): a model of "
            f"{info.model_name}'s family would fit"
        )
    if info.vocab_size != slm.vocab_size:
        raise Incompatible(
            f"the server has a vocabulary of {info.vocab_size} ids, {slm.name} has {slm.vocab_size}"
        )
    if codec.VERSION not in info.codecs:
        raise Incompatible(
            f"the server reads codecs {list(info.codecs)}, this client writes "
            f"{list(codec.VERSIONS)}"
        )
    id_codec_of(info, slm)
