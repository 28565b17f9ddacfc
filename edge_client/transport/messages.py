"""What the session says and hears, as messages: the opening, and the parts of a verdict that come as bytes."""

import uuid
from collections.abc import Iterator, Sequence

import numpy as np
from hedge.v1 import hedge_pb2 as pb

from common import codec, ids
from common.errors import Incompatible, Unreachable
from common.model import LanguageModel
from common.rpc import PROTOCOL_VERSION
from edge_client.config import Settings

VERIFICATION = {
    "full": pb.VERIFICATION_FULL,
    "sparse": pb.VERIFICATION_SPARSE,
    "split": pb.VERIFICATION_SPLIT,
    "coupled": pb.VERIFICATION_COUPLED,
}


# End ids in one line.
NAMED = 6


def opening(
    slm: LanguageModel,
    ids_held: Sequence[int],
    generated: int,
    settings: Settings,
    audit: "pb.Audit.ValueType",
    max_new_tokens: int,
    *,
    exact: bool,
) -> pb.Open:
    """The Open of a session over `ids_held`, the last `generated` of which belong to the answer."""
    warp = settings.warp
    return pb.Open(
        session_id=uuid.uuid4().hex,
        protocol_version=PROTOCOL_VERSION,
        prompt_ids=ids_held,
        resume_position=generated,
        warp=pb.Warp(temperature=warp.temperature, top_k=warp.top_k, top_p=warp.top_p),
        seed=settings.seed,
        verification=pb.VERIFICATION_STREAM if settings.streams else VERIFICATION[settings.verification],
        guarantee=pb.GUARANTEE_EXACT if exact else pb.GUARANTEE_OPPORTUNISTIC,
        audit=audit,
        tokenizer_fingerprint=slm.tokenizer_fingerprint,
        vocab_size=slm.vocab_size,
        codecs=codec.VERSIONS,
        id_codecs=ids.versions(slm.primer),
        id_primer=slm.primer_fingerprint,
        bits=settings.bits if settings.verification == "split" else 0,
        law_entries=settings.law_entries,
        bonus=settings.exact,
        max_new_tokens=max_new_tokens if settings.streams else 0,
        end_ids=slm.end_ids,
    )


def engine_of(info: pb.ServerInfo) -> str | None:
    """Whether rows of the server come out `bitwise` the same in any company, or up to `rounding`; None when it does not say."""
    if not info.HasField("exactness"):
        return None
    return "rounding" if info.exactness.difference else "bitwise"


def differences(info: pb.ServerInfo, slm: LanguageModel) -> Iterator[str]:
    """What the files of the cloud's model say otherwise than the device's; a line each."""
    if info.chat_fingerprint and slm.chat_fingerprint and info.chat_fingerprint != slm.chat_fingerprint:
        yield f"{info.model_name} has another chat template than {slm.name}: prompts are written by the device's"
    ends = set(info.end_ids)
    if own := sorted(ends ^ set(slm.end_ids)):
        words = ", ".join(f"{token} ({'the cloud' if token in ends else 'the device'})" for token in own[:NAMED])
        more = f" and {len(own) - NAMED} more" if len(own) > NAMED else ""
        yield f"{info.model_name} and {slm.name} end answers at different ids, and all of them count: {words}{more}"


def id_codec_of(info: pb.ServerInfo, slm: LanguageModel) -> int:
    """Version of the id codec that both sides have, the best one. Incompatible when there is none."""
    known = ids.versions(slm.primer if info.id_primer == slm.primer_fingerprint else ())
    if both := [version for version in known if version in info.id_codecs]:
        return both[0]
    raise Incompatible(f"the server reads id codecs {list(info.id_codecs)}, this client writes {list(known)}")


def check_opened(opened: pb.Opened, id_codec: int) -> None:
    """Unreachable for a server that reads other codecs than it said it would."""
    if (opened.codec, opened.id_codec) != (codec.VERSION, id_codec):
        raise Unreachable(
            f"the server reads codecs {opened.codec} and {opened.id_codec}, not {codec.VERSION} and {id_codec} as agreed"
        )


def audited(data: bytes, form: "pb.Audit.ValueType") -> np.ndarray:
    """y_d per token, float64, from either form of the audit."""
    if form == pb.AUDIT_FLOAT32:
        return np.frombuffer(data[: len(data) // 4 * 4], dtype="<f4").astype(np.float64)
    codes = np.frombuffer(data, dtype=np.uint8)
    return np.where(codes == 255, 0.0, np.exp(codes / -16.0))


def law_of(law: pb.Law, vocab_size: int) -> np.ndarray:
    """y, float64 [V]. Unreachable for bytes that are no law."""
    values = np.frombuffer(law.probabilities[: len(law.probabilities) // 4 * 4], "<f4").astype(np.float64)
    named = np.frombuffer(law.ids[: len(law.ids) // 4 * 4], "<u4") if law.ids else np.arange(vocab_size)
    sane = np.isfinite(values).all() and (values >= 0).all() and values.any()
    sound = len(values) == len(named) > 0 and named.max() < vocab_size and bool(sane)
    if not sound:
        raise Unreachable(f"the server sent {len(law.probabilities)} and {len(law.ids)} bytes that are no law")
    target = np.zeros(vocab_size)
    target[named] = values
    return target


def check_server(info: pb.ServerInfo, slm: LanguageModel) -> None:
    """Refuses a server that cannot judge this model's tokens, naming both values."""
    if info.protocol_version != PROTOCOL_VERSION:
        raise Incompatible(f"the server speaks protocol {info.protocol_version}, this client {PROTOCOL_VERSION}")
    if info.tokenizer_fingerprint != slm.tokenizer_fingerprint:
        raise Incompatible(
            f"the server's tokenizer {info.tokenizer_fingerprint} ({info.model_name}, {info.vocab_size} ids) is not "
            f"{slm.name}'s {slm.tokenizer_fingerprint} ({slm.vocab_size} ids): a model of {info.model_name}'s family would fit"
        )
    if info.vocab_size != slm.vocab_size:
        raise Incompatible(f"the server has a vocabulary of {info.vocab_size} ids, {slm.name} has {slm.vocab_size}")
    if codec.VERSION not in info.codecs:
        raise Incompatible(f"the server reads codecs {list(info.codecs)}, this client writes {list(codec.VERSIONS)}")
    id_codec_of(info, slm)
