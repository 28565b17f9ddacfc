"""The masked language model at both ends: what it thinks of a position when that is hidden."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from hedge.common.errors import BadInput
from hedge.common.model import BUNDLED
from hedge.common.torch_model import weights_fingerprint

# Positions that are at least this far apart are hidden in one row: alone, each would be given much
# the same prior.
APART = 16
_ROWS = 32
BUNDLED_MLM = Path(__file__).parent / "mlm"


def share_rows(positions: NDArray[np.int64], apart: int) -> tuple[NDArray[np.int64], int]:
    """The row of each position [n], and how many rows there are: the fewest with no two positions
    closer than `apart`.
    """
    rows = np.empty(len(positions), np.int64)
    last = list[int]()
    for number in np.argsort(positions, kind="stable"):
        at = int(positions[number])
        row = next((row for row, before in enumerate(last) if at - before >= apart), len(last))
        last[row : row + 1] = [at]
        rows[number] = row
    return rows, len(last)


def load_encoder(kind: Any, folder: str, what: str) -> tuple[Any, Any]:
    """Tokenizer and model of a local folder in transformers' format, safetensors only. BadInput
    says what it is not.
    """
    if not Path(folder).is_dir():
        raise BadInput(f"{folder} is not a folder with {what}")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        model = kind.from_pretrained(folder, use_safetensors=True, dtype=torch.float32).eval()
        return AutoTokenizer.from_pretrained(folder), model
    except Exception as error:
        # A config.json can be wrong in as many ways as transformers has exceptions.
        raise BadInput(
            f"cannot load {what} from {folder}: {(str(error).splitlines() or [repr(error)])[0]}"
        ) from None


class MaskedLM:
    """A BERT-like model of a folder in transformers' format, or the bundled one. What is sent are
    ids below its mask's or, where the mask lies among the words, all ids.
    """

    def __init__(self, where: str = BUNDLED) -> None:
        source = str(BUNDLED_MLM) if where == BUNDLED else where
        self.tokenizer, self._model = load_encoder(
            AutoModelForMaskedLM, source, "a masked language model"
        )
        self.bundled = where == BUNDLED
        self.fingerprint = weights_fingerprint(self._model)
        if torch.cpu._is_avx512_bf16_supported():
            self._model = self._model.bfloat16()
        if self.tokenizer.mask_token_id is None:
            raise BadInput(f"the tokenizer of {where} has no mask token")
        self.mask = int(self.tokenizer.mask_token_id)
        ids = int(self._model.config.vocab_size)
        self.vocab_size = self.mask if self.mask == ids - 1 else ids
        limit = min(
            int(self._model.config.max_position_embeddings), int(self.tokenizer.model_max_length)
        )
        # BERT proper expects its own tokens around a text.
        self._before = [i for i in (self.tokenizer.cls_token_id,) if i is not None]
        self._after = [i for i in (self.tokenizer.sep_token_id,) if i is not None]
        self.context = limit - len(self._before) - len(self._after)

    def encode(self, text: str) -> NDArray[np.int64]:
        """BadInput for no text, a token that cannot be sent, or more than a packet holds."""
        ids = self.ids(text)
        if not len(ids):
            raise BadInput("the text is empty")
        if len(ids) > self.context:
            raise BadInput(f"the text has {len(ids)} tokens, a packet at most {self.context}")
        return ids

    def ids(self, text: str) -> NDArray[np.int64]:
        """Of a text of any length. BadInput names tokens that cannot be sent."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise BadInput("the text is not UTF-8") from None
        ids = np.array(
            self.tokenizer.encode(text, add_special_tokens=False, verbose=False), np.int64
        )
        unknown = self.tokenizer.unk_token_id
        unsent = (
            (ids == self.mask)
            | (ids >= self.vocab_size)
            | (ids == (-1 if unknown is None else unknown))
        )
        if unsent.any():
            names = dict.fromkeys(self.tokenizer.convert_ids_to_tokens(ids[unsent].tolist()))
            raise BadInput(f"the text has tokens that are not sent: {', '.join(list(names)[:5])}")
        return ids

    @property
    def words(self) -> dict[str, int]:
        """What is sent, by id."""
        return {
            word: i
            for word, i in self.tokenizer.get_vocab().items()
            if i < self.vocab_size and i != self.mask
        }

    def decode(self, ids: Sequence[int] | NDArray[np.int64]) -> str:
        return str(self.tokenizer.decode([int(i) for i in ids]))

    @torch.inference_mode()
    def log_priors(
        self, ids: NDArray[np.int64], positions: Sequence[int] | NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """ln MLM(ids with position i hidden)[i] over what is sent, [n, |V|], one row a position.

        Positions `APART` or more from each other are hidden together (docs/algorithms.md, section 5
        hides one at a time).
        """
        at = np.asarray(positions, np.int64)
        if not len(at):
            return np.empty((0, self.vocab_size))
        row, count = share_rows(at, APART)
        rows = np.tile(ids, (count, 1))
        rows[row, at] = self.mask
        around = [
            np.tile(np.array(one, np.int64), (count, 1)) for one in (self._before, self._after)
        ]
        inputs = torch.from_numpy(np.concatenate([around[0], rows, around[1]], axis=1))
        logits = self._at(inputs, torch.from_numpy(row), torch.from_numpy(at + len(self._before)))[
            :, : self.vocab_size
        ]
        if self.vocab_size > self.mask:
            logits[:, self.mask] = -math.inf
        return np.asarray(torch.log_softmax(logits, dim=-1).double().numpy())

    def _at(self, inputs: torch.Tensor, row: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Logits [n, ids] at n places of `inputs`; where the head is known it runs there only."""
        head = self._known_head()
        body = self._model.base_model if head else self._model
        parts = [body(part) for part in inputs.split(_ROWS)]
        if head:
            found = head(torch.cat([part.last_hidden_state for part in parts])[row, at])
        else:
            found = torch.cat([part.logits for part in parts])[row, at]
        logits: torch.Tensor = found.float()
        return logits

    def _known_head(self) -> Any:
        """From hidden states to logits, where a model keeps that apart."""
        if hasattr(self._model, "decoder") and hasattr(self._model, "head"):
            return lambda hidden: self._model.decoder(self._model.head(hidden))
        return getattr(self._model, "cls", None) or getattr(self._model, "lm_head", None)


def entropy(log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits, of ln p [n, |V|]."""
    p = np.exp(log_probs)
    return np.asarray(-(p * np.where(p > 0, log_probs, 0.0)).sum(axis=-1) / math.log(2))
