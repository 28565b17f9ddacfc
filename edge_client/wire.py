"""What the session says and hears, as messages: the opening, and the parts of a verdict that come as bytes."""

import uuid
from collections.abc import Sequence

import numpy as np
from hedge.v1 import hedge_pb2 as pb

from common import codec, ids
from common.errors import Incompatible, Unreachable
from common.model import CausalLM
from common.rpc import PROTOCOL_VERSION
from edge_client.settings import Settings

VERIFICATION = {
    "full": pb.VERIFICATION_FULL,
    "sparse": pb.VERIFICATION_SPARSE,
    "split": pb.VERIFICATION_SPLIT,
    "coupled": pb.VERIFICATION_COUPLED,
}
GUARANTEE = {"exact": pb.GUARANTEE_EXACT, "opportunistic": pb.GUARANTEE_OPPORTUNISTIC}


def opening(
    slm: CausalLM, prompt: Sequence[int], settings: Settings, audit: "pb.Audit.ValueType", max_new_tokens: int
) -> pb.Open:
    warp = settings.warp
    return pb.Open(
        session_id=uuid.uuid4().hex,
        protocol_version=PROTOCOL_VERSION,
        prompt_ids=prompt,
        warp=pb.Warp(temperature=warp.temperature, top_k=warp.top_k, top_p=warp.top_p),
        seed=settings.seed,
        verification=pb.VERIFICATION_STREAM if settings.streams else VERIFICATION[settings.verification],
        guarantee=GUARANTEE[settings.guarantee],
        audit=audit,
        tokenizer_fingerprint=slm.tokenizer_fingerprint,
        vocab_size=slm.vocab_size,
        codecs=codec.VERSIONS,
        id_codecs=ids.versions(slm.primer),
        id_primer=slm.primer_fingerprint,
        bits=settings.bits if settings.verification == "split" else 0,
        bonus=settings.exact,
        max_new_tokens=max_new_tokens if settings.streams else 0,
        end_ids=slm.end_ids,
    )


def id_codec_of(opened: pb.Opened, slm: CausalLM) -> ids.IdCodec:
    """The id codec the server chose. Incompatible when it chose a codec this client does not write."""
    if opened.codec not in codec.VERSIONS:
        raise Incompatible(f"the server wants codec {opened.codec}, this client writes {list(codec.VERSIONS)}")
    if opened.id_codec not in (known := ids.versions(slm.primer)):
        raise Incompatible(f"the server wants id codec {opened.id_codec}, this client writes {list(known)}")
    return ids.id_codec(opened.id_codec, slm.vocab_size, slm.primer)


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
    sound = len(values) == len(named) > 0 and named.max() < vocab_size and bool((values >= 0).all()) and values.any()
    if not sound:
        raise Unreachable(f"the server sent {len(law.probabilities)} and {len(law.ids)} bytes that are no law")
    target = np.zeros(vocab_size)
    target[named] = values
    return target


def check_server(info: pb.ServerInfo, slm: CausalLM) -> None:
    """Refuses a server that cannot judge this model's tokens, naming both values."""
    if info.protocol_version != PROTOCOL_VERSION:
        raise Incompatible(f"the server speaks protocol {info.protocol_version}, this client {PROTOCOL_VERSION}")
    if info.tokenizer_fingerprint != slm.tokenizer_fingerprint:
        raise Incompatible(
            f"the server's tokenizer {info.tokenizer_fingerprint} is not {slm.name}'s {slm.tokenizer_fingerprint}"
        )
    if info.vocab_size != slm.vocab_size:
        raise Incompatible(f"the server has a vocabulary of {info.vocab_size} ids, {slm.name} has {slm.vocab_size}")
