"""The receipt of an answer: who wrote it, what left the device and to whom, and what it cost
against the LLM alone.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hedge.common.command import say
from hedge.common.errors import BadInput
from hedge.edge_client.engine.session import Session

# What a message says of a draft besides its id.
_SENT = {
    "full": "whole draft probs",
    "sparse": "the largest draft probs",
    "split": "the drafts' own probs",
    "coupled": None,
}


@dataclass(frozen=True, slots=True)
class Prices:
    """Of a million: `prompt` ids that the cloud reads, `position`s of the LLM's passes, and
    `output` tokens of the LLM alone, which are positions too where no other price is given.
    """

    prompt: float = 0.0
    position: float = 0.0
    output: float | None = None
    currency: str = "EUR"

    @classmethod
    def of(cls, words: Iterable[str]) -> "Prices | None":
        """Parses NAME=VALUE words; None for none. BadInput for another name or a bad price."""
        given: dict[str, Any] = {}
        names = [field.name for field in fields(cls)]
        for word in words:
            name, mark, value = word.partition("=")
            if not mark or name not in names:
                raise BadInput(f"price {word!r} is not NAME=VALUE with one of {', '.join(names)}")
            try:
                given[name] = value if name == "currency" else float(value)
            except ValueError:
                raise BadInput(f"price {name} {value!r} is not a number") from None
            if name != "currency" and not 0 <= given[name] < float("inf"):
                raise BadInput(f"price {name} {value} is not a number of at least 0")
        return cls(**given) if given else None

    def cost(self, prompt: int, positions: int) -> float:
        return (prompt * self.prompt + positions * self.position) / 1e6

    def alone(self, prompt: int, tokens: int) -> float:
        each = self.position if self.output is None else self.output
        return (prompt * self.prompt + tokens * each) / 1e6


def receipt_of(session: Session, prices: Prices | None = None) -> dict[str, Any]:
    """The record of an answer that has ended, in JSON's terms: bytes, seconds since it began,
    counts.
    """
    statistics = session.statistics
    link = session.link
    spoke = statistics.uplink_payload_bytes > 0
    sent = ["prompt ids"] if spoke else []
    if spoke and not session.config.streams:
        sent.append("draft ids")
        sent += [more] if (more := _SENT[session.config.verification.kind]) else []
    cost = None
    if prices:
        cost = {
            "currency": prices.currency,
            "hedge": round(prices.cost(statistics.open_ids, statistics.llm_positions), 9),
            "llm_alone": round(prices.alone(session.prompt_tokens, statistics.tokens), 9),
        }
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "answers": 1,
        "system": session.config.system,
        "guarantee": session.guarantee,
        "prompt_tokens": session.prompt_tokens,
        "tokens": {"all": statistics.tokens}
        | {kind.value: count for kind, count in statistics.released.items()},
        "llm": {
            "passes": statistics.rounds,
            "positions": statistics.llm_positions,
            "passes_alone": statistics.tokens,
        },
        "bytes": {
            "up": statistics.uplink_payload_bytes,
            "down": statistics.downlink_payload_bytes,
            "socket_up": statistics.uplink_socket_bytes,
            "socket_down": statistics.downlink_socket_bytes,
        },
        "sent": sent,
        "cloud": {
            "address": link.address,
            "model": link.info.model_name,
            "engine": link.info.engine,
        }
        if spoke and link
        else None,
        "seconds": round(statistics.wall_s, 3),
        "waited_s": round(statistics.wait_s, 3),
        "without_cloud_s": [[round(at, 3) for at in gap] for gap in statistics.gaps],
        "exact_until": statistics.exact_until,
        "near_ties": statistics.near_ties,
        "cost": cost,
    }


def summed(receipts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Of several answers, in the same terms, without what belongs to one alone."""
    found = list(receipts)

    def total(*path: str) -> Any:
        return sum(value for one in found if (value := _at(one, path)) is not None)

    tokens: Counter[str] = Counter()
    for one in found:
        tokens.update(one["tokens"])
    priced = [one for one in found if one["cost"]]
    currencies = sorted({one["cost"]["currency"] for one in priced})
    costs = {
        currency: {
            name: round(
                sum(one["cost"][name] for one in priced if one["cost"]["currency"] == currency), 9
            )
            for name in ("hedge", "llm_alone")
        }
        for currency in currencies
    }
    return {
        "answers": total("answers"),
        "systems": dict(Counter(one["system"] for one in found)),
        "prompt_tokens": total("prompt_tokens"),
        "tokens": dict(tokens),
        "llm": {name: total("llm", name) for name in ("passes", "positions", "passes_alone")},
        "bytes": {
            name: total("bytes", name) for name in ("up", "down", "socket_up", "socket_down")
        },
        "sent": sorted({kind for one in found for kind in one["sent"]}),
        "clouds": sorted(
            {
                f"{one['cloud']['model']} at {one['cloud']['address']}"
                for one in found
                if one["cloud"]
            }
        ),
        "seconds": round(total("seconds"), 3),
        "waited_s": round(total("waited_s"), 3),
        "without_cloud": sum(len(one["without_cloud_s"]) for one in found),
        "near_ties": total("near_ties"),
        "cost": costs,
    }


def _at(record: dict[str, Any], path: Iterable[str]) -> Any:
    value: Any = record
    for name in path:
        value = value[name]
    return value


def lines(receipt: dict[str, Any]) -> list[str]:
    """For people."""
    tokens = receipt["tokens"]
    llm = receipt["llm"]
    sizes = receipt["bytes"]
    kinds = ", ".join(
        f"{count} {kind}" for kind, count in tokens.items() if kind != "all" and count
    )
    saved = (
        f", {1 - llm['passes'] / llm['passes_alone']:.0%} saved"
        if 0 < llm["passes"] < llm["passes_alone"]
        else ""
    )
    wire = (
        f" ({sizes['socket_up']} and {sizes['socket_down']} on the wire)"
        if sizes["socket_up"] is not None
        else ""
    )
    cloud = receipt["cloud"]
    sent = receipt["sent"]
    told = [
        f"{receipt['system']}, {receipt['guarantee']}: {tokens['all']} tokens ({kinds or 'none'})",
        f"LLM passes: {llm['passes']} over {llm['positions']} positions; alone it makes "
        f"{llm['passes_alone']}{saved}",
        f"left this device: {', '.join(sent) if sent else 'nothing'}; {sizes['up']} B up, "
        f"{sizes['down']} B down{wire}",
    ]
    if cloud:
        told.append(
            f"to: {cloud['model']} at "
            f"{cloud['address']}{', ' + cloud['engine'] if cloud['engine'] else ''}"
        )
    told.append(
        f"time: {receipt['seconds']:.2f} s, {receipt['waited_s']:.2f} s of them waiting for the "
        "cloud"
    )
    told += [
        f"without the cloud from {gap[0]:.1f} s {f'to {gap[1]:.1f} s' if len(gap) > 1 else 'on'}"
        for gap in receipt["without_cloud_s"]
    ]
    if receipt["near_ties"]:
        told.append(f"near ties: {receipt['near_ties']}")
    if cost := receipt["cost"]:
        told.append(
            f"cost: {cost['hedge']:.6f} {cost['currency']}; the LLM alone {cost['llm_alone']:.6f}"
        )
    return told


def summed_lines(total: dict[str, Any]) -> list[str]:
    tokens = total["tokens"]
    llm = total["llm"]
    sizes = total["bytes"]
    systems = ", ".join(f"{count} {name}" for name, count in total["systems"].items())
    kinds = ", ".join(
        f"{count} {kind}" for kind, count in tokens.items() if kind != "all" and count
    )
    saved = f" ({1 - llm['passes'] / llm['passes_alone']:.0%} saved)" if llm["passes_alone"] else ""
    return [
        f"{total['answers']} answers ({systems}), {tokens.get('all', 0)} tokens "
        f"({kinds or 'none'})",
        f"LLM passes: {llm['passes']} over {llm['positions']} positions; alone it makes "
        f"{llm['passes_alone']}{saved}",
        f"left the device: {', '.join(total['sent']) or 'nothing'}; {sizes['up']} B up, "
        f"{sizes['down']} B down",
        *(f"to: {cloud}" for cloud in total["clouds"]),
        f"time: {total['seconds']:.1f} s, {total['waited_s']:.1f} s waiting; the cloud was lost "
        f"{total['without_cloud']} times",
        f"near ties: {total['near_ties']}",
        *(
            f"cost: {cost['hedge']:.6f} {name}; the LLM alone {cost['llm_alone']:.6f}"
            for name, cost in total["cost"].items()
        ),
    ]


class ReceiptLog:
    """Appends receipts to a file, a line of JSON each; without a file it keeps none."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is None:
            return
        try:
            path.open("a", encoding="utf-8").close()
        except OSError as error:
            raise BadInput(f"cannot write {path}: {error.strerror}") from None

    def add(self, receipt: dict[str, Any]) -> None:
        """Appends a receipt. A full disk is reported and is no error: the answer is worth more."""
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(receipt, ensure_ascii=False) + "\n")
        except OSError as error:
            say(f"hedge: cannot write {self._path}: {error.strerror}")


def _no_number(name: str) -> Any:
    raise ValueError(name)


def read_receipts(path: Path) -> list[dict[str, Any]]:
    """BadInput for a file that does not hold receipts."""
    from hedge.common.files import read_text

    found = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            receipt = json.loads(line, parse_constant=_no_number)
            summed([receipt])
            if receipt["cost"] and not isinstance(receipt["cost"]["currency"], str):
                raise TypeError(receipt)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadInput(f"{path}, line {number}: not a receipt") from None
        found.append(receipt)
    return found
