"""A causal language model with a key-value cache that can be rolled back. Knows nothing of drafts, gates or the network."""

import hashlib
import importlib.resources
import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging as transformers_logging

from common.errors import BadInput, Incompatible

BUNDLED = "bundled"
PRIMER = "primer.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SAMPLE = 1 << 16
_SAMPLES = 64


def bundled_folder() -> Path:
    """Where the bundled pair and its calibrations lie."""
    return Path(str(importlib.resources.files("hedge.pair")))


@dataclass(slots=True)
class CausalLM:
    """A decoder and its tokenizer. `vocab_size` is the tokenizer's; rows of logits beyond it are padding and cut off."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    fingerprint: str
    tokenizer_fingerprint: str
    vocab_size: int
    context: int
    end_ids: tuple[int, ...]
    # Ids that what is said will resemble; both sides start the coding of ids from them.
    primer: tuple[int, ...] = ()
    primer_fingerprint: str = ""

    def prefix(self) -> "Prefix":
        return Prefix(self)

    def warm_up(self) -> None:
        """A pass for nobody: the first one of a process is slower than all others."""
        self.prefix().forward([0] * min(16, self.context))

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Prompt ids of a conversation, by the tokenizer's chat template, or plain text. BadInput when refused."""
        for message in messages:
            _check_unicode(message["content"])
        if self.tokenizer.chat_template:
            try:
                text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
            except (TemplateError, ValueError, TypeError) as error:
                raise BadInput(f"the chat template of {self.name} refuses this conversation: {_first_line(error)}") from None
            return list(self.tokenizer.encode(str(text), add_special_tokens=False))
        return list(self.tokenizer.encode("\n".join(message["content"] for message in messages)))

    def encode_text(self, text: str) -> list[int]:
        """Prompt ids of a text to go on with."""
        _check_unicode(text)
        return list(self.tokenizer.encode(text))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"the prompt is not Unicode: {text[error.start]!a} at character {error.start}") from None


class Prefix:
    """The cached state of one sequence: what has been fed, to which `forward` adds and from which `rollback` takes."""

    def __init__(self, lm: CausalLM) -> None:
        self._lm = lm
        self._cache = DynamicCache(config=lm.model.config)
        self._with_cache: dict[str, Any] = {cache_argument(lm.model): self._cache, "use_cache": True}
        self.length = 0

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], rows: int | None = None) -> np.ndarray:
        """Feeds `ids`; float32 [rows, vocab_size]: the raw logits after each of the last `rows` of them (all by default)."""
        rows = len(ids) if rows is None else rows
        if not ids:
            return np.empty((0, self._lm.vocab_size), np.float32)
        fed = torch.tensor([ids], device=self._lm.model.device)
        out = self._lm.model(input_ids=fed, logits_to_keep=max(1, rows), **self._with_cache)
        self.length += len(ids)
        logits = out.logits[0, len(out.logits[0]) - rows :, : self._lm.vocab_size]
        return np.asarray(logits.float().cpu().numpy())

    def rollback(self, length: int) -> None:
        """Forgets everything after the first `length` ids."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot roll a prefix of {self.length} back to {length}")
        if length < self.length:
            self._cache.crop(length - self.length)
            self.length = length


def cache_argument(model: PreTrainedModel) -> str:
    """What forward calls the cache: renamed in transformers 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def load(where: str, side: str, *, dtype: str = "float32", device: str = "cpu") -> CausalLM:
    """The model at a local folder, hub id, or `bundled` (its `slm` or `llm`, by `side`).

    Weights come from safetensors only. BadInput when nothing usable is there, Incompatible for a cache that cannot be
    rolled back.
    """
    source = str(bundled_folder() / side) if where == BUNDLED else where
    folder = Path(source)
    if where == BUNDLED or folder.exists() or source.startswith((".", "/", "~")):
        _check_folder(folder, side)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        loader: Any = AutoModelForCausalLM
        loaded, report = loader.from_pretrained(
            source, use_safetensors=True, dtype=DTYPES[dtype], trust_remote_code=False, output_loading_info=True
        )
        model: PreTrainedModel = loaded.to(device).eval()
    except Exception as error:
        # A config.json can be wrong in as many ways as transformers has exceptions.
        raise BadInput(f"cannot load the {side} from {where}: {_first_line(error)}") from None
    _check_weights(report, where)
    _check_cache(model, where)
    vocab = tokenizer.get_vocab()
    vocab_size = max(vocab.values()) + 1
    if vocab_size > model.config.get_text_config().vocab_size:
        rows = model.config.get_text_config().vocab_size
        raise BadInput(f"the tokenizer of {where} has {vocab_size} ids, its model only {rows}")
    tokenizer_fingerprint = _digest(json.dumps(sorted(vocab.items()), ensure_ascii=True).encode())
    primer = _primer(tokenizer_fingerprint)
    return CausalLM(
        model=model,
        tokenizer=tokenizer,
        name=f"{BUNDLED} {side}" if where == BUNDLED else folder.name or source,
        fingerprint=weights_fingerprint(model),
        tokenizer_fingerprint=tokenizer_fingerprint,
        vocab_size=vocab_size,
        context=_context(model),
        end_ids=tuple(token for token in _end_ids(model, tokenizer) if token < vocab_size),
        primer=primer,
        primer_fingerprint=_digest(json.dumps(primer).encode()) if primer else "",
    )


@cache
def _primers() -> dict[str, tuple[int, ...]]:
    data = json.loads((bundled_folder() / PRIMER).read_text("utf-8"))
    return {data["tokenizer"]: tuple(data["ids"])}


def _primer(tokenizer_fingerprint: str) -> tuple[int, ...]:
    """What ships for this tokenizer, whichever model has it."""
    return _primers().get(tokenizer_fingerprint, ())


def _check_folder(folder: Path, side: str) -> None:
    if not folder.is_dir():
        raise BadInput(f"no {side} folder at {folder}")
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder} is no model folder: config.json is missing")
    weights = list(folder.glob("*.safetensors"))
    if not weights:
        raise BadInput(f"{folder} has no *.safetensors weights; nothing else is loaded")
    for path in weights:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            try:
                entries: Any = json.loads(file.read(header)) if header <= path.stat().st_size else None
                needed = max(e["data_offsets"][1] for n, e in entries.items() if n != "__metadata__") + header + 8
            except (ValueError, TypeError, KeyError, AttributeError):
                raise BadInput(f"{path} is not a safetensors file") from None
        if path.stat().st_size < needed:
            raise BadInput(f"{path} is cut short: {path.stat().st_size} of {needed} bytes")


def _check_weights(report: dict[str, Any], where: str) -> None:
    """What the file lacks would be random, and what it has too much of would be left out."""
    for what in ("missing", "unexpected", "mismatched"):
        if names := sorted(map(str, report.get(f"{what}_keys") or ())):
            raise BadInput(f"the weights of {where} do not fit its config.json: {len(names)} {what}, such as {names[0]}")


def _check_cache(model: PreTrainedModel, where: str) -> None:
    """Only plain full-attention layers give a fresh forward's values after a crop."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers} - {DynamicLayer}
    if kinds or getattr(model, "_is_stateful", False):
        named = ", ".join(sorted(kind.__name__ for kind in kinds)) or "a recurrent state"
        raise Incompatible(f"the cache of {where} cannot be rolled back: it holds {named}")


def _context(model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 2048)


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    configured: Any = model.generation_config.eos_token_id if model.generation_config else None
    found = configured if isinstance(configured, list) else [configured, tokenizer.eos_token_id]
    return tuple(sorted({int(token) for token in found if token is not None}))


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Names the weights as loaded: shapes, and evenly spaced samples of the parameters' bytes."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLE * _SAMPLES)].float().cpu().numpy()
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def use_threads(count: int | None) -> None:
    """Sets torch's threads, when given."""
    if count is not None:
        if count < 1:
            raise BadInput(f"{count} threads, at least 1")
        torch.set_num_threads(count)
