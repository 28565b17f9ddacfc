"""`hedge wireless study`: adaptive masking beside its baselines, on the same packets and fades."""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hedge.common.errors import BadInput
from hedge.common.files import TEXT
from hedge.common.loading import load
from hedge.common.model import LanguageModel, vocabulary
from hedge.common.torch_model import use_threads
from hedge.evaluation.quality import chrf_metric
from hedge.evaluation.record import Journal, lock_folder
from research.harness import complete
from research.pool import share_work
from research.wireless.coded import HuffmanLdpc, bp_decoder, huffman, is_delivered, range_bits
from research.wireless.masked import BUNDLED_MLM, MaskedLM, entropy
from research.wireless.packet import Arrival, MaskOrder, adaptive_mask, detect, most_likely, send
from research.wireless.qam import Fade, Qam, rayleigh
from research.wireless.rehearsal import rehearse_mask
from research.wireless.rules import REHEARSED, RULES
from research.wireless.similarity import Embedding
from research.wireless.summary import show, summarise

LENGTH = 128
SHARE = 0.3


def draw_packets(
    lm: MaskedLM, text: str, count: int, length: int, seed: int
) -> list[NDArray[np.int64]]:
    """`count` packets of consecutive tokens, without overlap; the first of more are the same."""
    if lm.context < length:
        raise BadInput(
            f"a packet of {length} tokens is longer than the masked model's context of {lm.context}"
        )
    ids = lm.ids(text)
    most = len(ids) // length
    if count > most:
        raise BadInput(
            f"packets {count} is more than the {most} of {length} tokens that the text holds"
        )
    chosen = np.random.default_rng(seed).permutation(most)[:count] * length
    return [ids[start : start + length] for start in chosen]


def count_words(lm: MaskedLM) -> NDArray[np.float64]:
    """Of every id: its share of the bundled model's books, or what a foreign model expects."""
    if lm.bundled:
        found = json.loads((BUNDLED_MLM / "frequencies.json").read_text("ascii"))
        counts = np.array(found, dtype=float) + 0.5
        return np.asarray(counts / counts.sum())
    blank = np.full(min(LENGTH, lm.context), lm.mask, np.int64)
    return np.asarray(np.exp(lm.log_priors(blank, [len(blank) // 2])[0]))


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the models of a study are; `slm` and `embedding` may be left out."""

    mlm: str
    slm: str
    embedding: str
    seed: int

    def load(self) -> tuple[MaskedLM, LanguageModel | None, Embedding | None]:
        lm = MaskedLM(self.mlm)
        slm = None if self.slm == "none" else load(self.slm, "slm")
        if slm and slm.tokenizer_fingerprint != vocabulary(lm.words)[1]:
            raise BadInput(
                f"--slm {self.slm} has another tokenizer than the masked model: "
                "--slm none leaves range coding out"
            )
        return lm, slm, Embedding(self.embedding) if self.embedding else None


@dataclass(frozen=True, slots=True)
class PacketJob:
    """A packet, and the constellations that it is still to be sent with."""

    number: int
    ids: NDArray[np.int64]
    qams: tuple[int, ...]
    snrs: tuple[float, ...]


class Sent(NamedTuple):
    """What a system received, how many tokens it left out, and the symbols that it took."""

    system: str
    arrived: NDArray[np.int64]
    masked: int
    uses: int


class Study:
    """All systems on one packet after the other."""

    def __init__(self, parts: Parts) -> None:
        self._lm, self._slm, self._embedding = parts.load()
        self._seed = parts.seed
        self._words = huffman(count_words(self._lm))

    def send_packet(self, job: PacketJob) -> list[dict[str, Any]]:
        """A journal line for each constellation: every system at every SNR."""
        ids = job.ids
        first = self._lm.log_priors(ids, np.arange(len(ids)))
        orders = {rule: MaskOrder(self._lm, ids, rule, first) for rule in RULES}
        fixed = self._mask_by_share(job, first, orders["entropy"])
        bits = range_bits(self._slm, ids) if self._slm else None
        lines = []
        for qam in (Qam(order, self._lm.vocab_size) for order in job.qams):
            entries = []
            for snr in job.snrs:
                draw = [self._seed, job.number, round(10 * snr) + 10_000]
                fade = rayleigh(snr, np.random.default_rng(draw))
                masks = dict(fixed)
                for rule in RULES:
                    masks[f"adaptive, {rule}"] = adaptive_mask(qam, fade, orders[rule], len(ids))
                own = np.random.default_rng([*draw, 2])
                masks[f"adaptive, {REHEARSED}"] = rehearse_mask(self._lm, qam, fade, ids, own)
                # The same noise for every system.
                found = self._send_all(qam, fade, ids, masks, bits, [*draw, 1])
                entries += [self._entry(ids, snr, sent) for sent in found]
            lines.append({"packet": job.number, "qam": qam.order, "entries": entries})
        return lines

    def _mask_by_share(
        self, job: PacketJob, first: NDArray[np.float64], order: MaskOrder
    ) -> dict[str, Sequence[int]]:
        """What the baselines leave out, whatever the channel."""
        count = round(SHARE * len(job.ids))
        while len(order.order) < count:
            order.advance()
        rng = np.random.default_rng([self._seed, job.number])
        return {
            "receiver only": [],
            "random": sorted(rng.choice(len(job.ids), count, replace=False).tolist()),
            "parallel": np.argsort(entropy(first), kind="stable")[:count].tolist(),
            "sequential": order.order[:count],
        }

    def _send_all(
        self,
        qam: Qam,
        fade: Fade,
        ids: NDArray[np.int64],
        masks: dict[str, Sequence[int]],
        bits: float | None,
        noise: list[int],
    ) -> list[Sent]:
        def send_masked(masked: Sequence[int]) -> Arrival:
            return send(qam, fade, ids, masked, np.random.default_rng(noise))

        whole = len(ids) * qam.symbols
        found = [Sent("ml", most_likely(send_masked([]), self._lm.mask), 0, whole)]
        known: dict[tuple[int, ...], NDArray[np.int64]] = {}
        for system, masked in masks.items():
            key = tuple(sorted(masked))
            if key not in known:
                known[key] = detect(self._lm, send_masked(masked))
            uses = (len(ids) - len(masked)) * qam.symbols
            found.append(Sent(system, known[key], len(masked), uses))
        coded = HuffmanLdpc(qam, self._words)
        arrived = coded.carry(ids, fade, np.random.default_rng(noise))
        found.append(Sent("huffman + ldpc", arrived, 0, coded.sent(ids)))
        if bits is not None:
            arrives = is_delivered(qam, fade, len(ids), bits)
            arrived = ids if arrives else np.full(len(ids), -1)
            found.append(Sent("range coded", arrived, 0, whole))
        return found

    def _entry(self, ids: NDArray[np.int64], snr: float, sent: Sent) -> dict[str, Any]:
        wanted = self._lm.decode(ids)
        text = self._lm.decode([i for i in sent.arrived if 0 <= i < self._lm.vocab_size])
        chrf = float(chrf_metric().sentence_score(text, [wanted]).score)
        entry = {
            "snr_db": snr,
            "system": sent.system,
            "right": int((sent.arrived == ids).sum()),
            "chrf": round(chrf, 2),
            "masked": sent.masked,
            "uses": sent.uses,
        }
        if self._embedding:
            entry["similarity"] = round(self._embedding.similarity(text, wanted), 4)
        return entry


# Of a worker process.
_study: list[Study] = []


def _start(parts: Parts) -> None:
    use_threads(1)
    _study[:] = [Study(parts)]


def _send_packet(job: PacketJob) -> list[dict[str, Any]]:
    return _study[0].send_packet(job)


def read_text(path: Path) -> str:
    try:
        return path.read_text(TEXT)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8: {error.reason}") from None


def study(args: argparse.Namespace) -> None:
    for name, value in (("packets", args.packets), ("jobs", args.jobs)):
        if value < 1:
            raise BadInput(f"{name} {value} is not at least 1")
    for snr in args.snr:
        rayleigh(snr, np.random.default_rng(0))
    for order in args.qam:
        Qam(order, 2)
    text = read_text(args.text or BUNDLED_MLM / "held-out.txt")
    parts = Parts(args.mlm, args.slm, args.embedding, args.seed)
    lm, slm, embedding = parts.load()
    chrf_metric()
    bp_decoder()
    header = {
        "kind": "packets",
        "seed": args.seed,
        "snr": args.snr,
        "mlm": lm.fingerprint,
        "slm": slm.fingerprint if slm else "",
        "embedding": embedding.fingerprint if embedding else "",
        "text": hashlib.sha256(text.encode()).hexdigest()[:16],
    }
    packets = draw_packets(lm, text, args.packets, LENGTH, args.seed)
    wanted = {
        (number, order): (number, order) for number in range(len(packets)) for order in args.qam
    }

    def send_packets(left: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
        jobs = []
        for number, mine in groupby(left, key=itemgetter(0)):
            orders = tuple(order for _, order in mine)
            jobs.append(PacketJob(number, packets[number], orders, tuple(args.snr)))
        return chain.from_iterable(share_work(args.jobs, _start, (parts,), _send_packet, jobs))

    with lock_folder(args.out):
        journal = Journal(args.out / "packets.jsonl", header, resume=True)
        asked = complete(journal, ("packet", "qam"), wanted, send_packets, "packets")
        path = args.out / "rows.jsonl"
        path.unlink(missing_ok=True)
        whole = Journal(path, {"kind": "wireless", "mlm": lm.fingerprint}, resume=False)
        for row in summarise(journal.entries, LENGTH):
            whole.append(row)
    rows = summarise(asked, LENGTH)
    if args.json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows))
    else:
        show(rows)
