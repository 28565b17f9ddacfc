"""Calibration files: written, read, and found for a pair."""

import json
from dataclasses import dataclass
from pathlib import Path

from hedge.common.errors import BadInput, HedgeError, Incompatible
from hedge.common.files import TEXT, write_whole
from hedge.common.model import LanguageModel, bundled_folder
from hedge.common.sampling import Warp
from hedge.edge_client.engine.gates.calibration import Calibration
from hedge.v1 import hedge_pb2 as pb


@dataclass(slots=True)
class Pair:
    """The two models as far as the device knows them."""

    slm: LanguageModel
    info: pb.ServerInfo | None


def save_calibration(calibration: Calibration, path: Path, summary: object = None) -> None:
    """Writes the file whole or not at all; `summary` is for readers and not read back."""
    try:
        write_whole(
            path, json.dumps({"summary": summary, **calibration.to_json()}, indent=1) + "\n"
        )
    except OSError as error:
        raise HedgeError(f"cannot write {path}: {error.strerror}") from None


def load_calibration(path: Path) -> Calibration:
    """BadInput when the file is not a calibration."""
    try:
        return Calibration.from_json(json.loads(path.read_text(TEXT)))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except (BadInput, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{path} is not a calibration: {error}") from None


def find_calibration(path: Path | None, pair: Pair, warp: Warp) -> Calibration:
    """The given calibration, or the bundled one for this warp. Incompatible when it was made for
    something else.
    """
    llm = pair.info.model_fingerprint if pair.info else ""
    prints = (pair.slm.fingerprint, llm, pair.slm.tokenizer_fingerprint, warp)
    if path is not None:
        found = load_calibration(path)
        found.check(*prints)
        return found
    shipped = [
        load_calibration(file) for file in sorted(bundled_folder().glob("calibration*.json"))
    ]
    for calibration in shipped:
        if calibration.warp == warp and (calibration.slm, calibration.llm) == prints[:2]:
            return calibration
    raise Incompatible(
        f"no calibration of this pair for temperature {warp.temperature:g}, top-k {warp.top_k}, "
        f"top-p {warp.top_p:g}: "
        "run hedge calibrate and give --calibration, or give --threshold"
    )
