"""What is checked of an opening, and what a server says of itself before one."""

from collections.abc import Collection

import numpy as np

from hedge.cloud_server.verification import RULES
from hedge.common import codec, ids
from hedge.common.errors import BadInput, Incompatible
from hedge.common.logits import LogitsOptions, LogitsProcessor
from hedge.common.model import LanguageModel
from hedge.common.rpc import MAX_MESSAGE_BYTES, PROTOCOL_VERSION
from hedge.common.sampling import Warp
from hedge.v1 import hedge_pb2 as pb

MAX_END_IDS = 64
MAX_LOGPROBS = 20


def check_open(request: pb.Open, lm: LanguageModel, context: int) -> Warp:
    """Refuses what cannot be served, naming both values. Returns the warp."""
    if request.protocol_version != PROTOCOL_VERSION:
        raise Incompatible(
            f"protocol version {request.protocol_version}, the server speaks {PROTOCOL_VERSION}"
        )
    if request.tokenizer_fingerprint != lm.tokenizer_fingerprint:
        raise Incompatible(
            f"tokenizer {request.tokenizer_fingerprint} is not the server's "
            f"{lm.tokenizer_fingerprint}"
        )
    if request.vocab_size != lm.vocab_size:
        raise Incompatible(
            f"a vocabulary of {request.vocab_size} ids, the server has {lm.vocab_size}"
        )
    _check_ways(request, lm)
    if len(request.end_ids) > MAX_END_IDS:
        raise BadInput(f"{len(request.end_ids)} end ids, at most {MAX_END_IDS}")
    prompt = len(request.prompt_ids)
    if not 1 <= prompt <= context:
        raise BadInput(f"a prompt of {prompt} ids, not 1..{context}")
    if not 0 <= request.resume_position < prompt:
        raise BadInput(f"resume position {request.resume_position} in {prompt} ids")
    if request.HasField("logprobs") and request.logprobs > MAX_LOGPROBS:
        raise BadInput(f"log-probabilities of {request.logprobs} tokens, at most {MAX_LOGPROBS}")
    _check_ids(request.prompt_ids, lm.vocab_size)
    _check_ids(request.end_ids, lm.vocab_size)
    warp = request.warp
    return Warp(warp.temperature, warp.top_k, warp.top_p, warp.min_p)


def make_processor(
    request: pb.Open, lm: LanguageModel, end_ids: Collection[int]
) -> LogitsProcessor:
    """What an opening wants done to logits. BadInput for what cannot be."""
    asked = request.processors
    if len(asked.bias_ids) != len(asked.biases):
        raise BadInput(f"{len(asked.bias_ids)} ids with {len(asked.biases)} biases")
    options = LogitsOptions()
    if request.HasField("processors"):
        bias = tuple(zip(asked.bias_ids, asked.biases, strict=True))
        options = LogitsOptions(
            asked.repetition_penalty,
            asked.presence_penalty,
            asked.frequency_penalty,
            bias,
            asked.grammar,
        )
    processor = LogitsProcessor(
        options, lm, len(request.prompt_ids) - request.resume_position, end_ids
    )
    processor.check(request.prompt_ids)
    return processor


def id_codecs(request: pb.Open, lm: LanguageModel) -> list[int]:
    """The id codecs both sides have, the client's best first. Both need the same primer."""
    known = ids.versions(lm.primer if request.id_primer == lm.primer_fingerprint else ())
    return [version for version in request.id_codecs if version in known]


def _check_ids(ids: "np.typing.ArrayLike", vocab_size: int) -> None:
    array = np.asarray(ids, dtype=np.int64)
    if array.size and array.max() >= vocab_size:
        raise BadInput(f"id {array.max()} in a vocabulary of {vocab_size}")


def _check_ways(request: pb.Open, lm: LanguageModel) -> None:
    """Verification, codecs, audit and guarantee."""
    if request.verification not in RULES:
        raise Incompatible(f"verification {request.verification} is not one of {list(RULES)}")
    if codec.VERSION not in request.codecs:
        raise Incompatible(
            f"codecs {list(request.codecs)}, the server reads {list(codec.VERSIONS)}"
        )
    if not id_codecs(request, lm):
        raise Incompatible(
            f"id codecs {list(request.id_codecs)}, the server reads {list(ids.versions(lm.primer))}"
        )
    if request.audit not in pb.Audit.values() or request.guarantee not in pb.Guarantee.values():
        raise Incompatible(
            f"audit {request.audit} or guarantee {request.guarantee} is not known to this server"
        )
    if request.bonus_ahead and not (
        request.verification == pb.VERIFICATION_COUPLED
        and request.guarantee == pb.GUARANTEE_EXACT
        and request.audit == pb.AUDIT_NONE
        and request.bonus
    ):
        raise BadInput(
            "bonus_ahead goes only with verification coupled, guarantee exact, bonus, and no audit"
        )
    if request.law_entries and request.guarantee == pb.GUARANTEE_EXACT:
        raise BadInput(
            f"distributions cut to {request.law_entries} entries in a session whose guarantee "
            "is exact"
        )


def make_server_info(
    lm: LanguageModel,
    context: int | None = None,
    exactness: pb.Exactness | None = None,
    open_sessions: int = 0,
    cached_tokens: int = 0,
    *,
    whole_rows: bool = True,
) -> pb.ServerInfo:
    """What the server says of itself before a session is opened."""
    return pb.ServerInfo(
        protocol_version=PROTOCOL_VERSION,
        model_name=lm.name,
        model_fingerprint=lm.fingerprint,
        tokenizer_fingerprint=lm.tokenizer_fingerprint,
        vocab_size=lm.vocab_size,
        context_limit=context or lm.context,
        codecs=codec.VERSIONS,
        id_codecs=ids.versions(lm.primer),
        id_primer=lm.primer_fingerprint,
        verifications=list(RULES),
        max_message_bytes=MAX_MESSAGE_BYTES,
        open_sessions=open_sessions,
        cached_tokens=cached_tokens,
        exactness=exactness,
        end_ids=lm.end_ids,
        chat_fingerprint=lm.chat_fingerprint,
        whole_rows=whole_rows,
        engine=lm.describe(),
    )
