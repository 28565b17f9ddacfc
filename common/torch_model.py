"""A language model in torch, by transformers. Weights come from safetensors only."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging as transformers_logging

from hedge.common.chat import Messages, Tools, encode_chat, explain_refusal
from hedge.common.errors import BadInput, Incompatible
from hedge.common.model import (
    BUNDLED,
    Identity,
    LanguageModel,
    bundled_folder,
    check_unicode,
    choose_context,
    first_line,
    strip_end,
    vocabulary,
)
from hedge.common.model_options import ModelOptions, check_threads

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Before, behind, and where the middle begins, by the names that families have for them.
INFILL = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
)
_SAMPLE = 1 << 16
_SAMPLES = 64


class TokenizerModel(LanguageModel):
    """The tokenizer of a model folder, for whatever runs the model."""

    def __init__(self, identity: Identity, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(identity)
        self.tokenizer = tokenizer
        self.chat_template = str(tokenizer.chat_template or "")
        self.specials = {
            token.content: number
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special
        }

    def encode_chat(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        if not self.tokenizer.chat_template:
            return self.encode_text("\n".join(message["content"] for message in messages))
        return encode_chat(messages, self.specials, self._render, self._encode, tools)

    def encode_text(self, text: str) -> list[int]:
        check_unicode(text)
        ids = list(self.tokenizer.encode(text, split_special_tokens=True))
        return strip_end(
            ids, self._encode(text, False), {*self.end_ids, self.tokenizer.eos_token_id}
        )

    def encode_infill(self, before: str, behind: str) -> list[int]:
        known = {
            token.content: number for number, token in self.tokenizer.added_tokens_decoder.items()
        }
        for names in INFILL:
            if all(name in known for name in names):
                prefix, suffix, middle = (known[name] for name in names)
                check_unicode(before + behind)
                return [
                    prefix,
                    *self._encode(before, False),
                    suffix,
                    *self._encode(behind, False),
                    middle,
                ]
        return super().encode_infill(before, behind)

    def _render(self, messages: Messages, tools: Tools) -> str:
        words: Any = {
            "tokenize": False,
            "add_generation_prompt": True,
            "tools": list(tools) or None,
        }
        try:
            return str(self.tokenizer.apply_chat_template(list(messages), **words))
        except Exception as error:
            # A template is a program, and may raise anything.
            raise explain_refusal(self.name, error) from None

    def _encode(self, text: str, parse: bool) -> list[int]:
        return list(
            self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not parse)
        )

    def decode(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _grammar_tokenizer(self) -> Any:
        from llguidance.hf import from_tokenizer

        tokenizer: Any = self.tokenizer
        return from_tokenizer(tokenizer, eos_token=list(self.end_ids))


class TorchModel(TokenizerModel):
    """A model and tokenizer of transformers."""

    def __init__(
        self, identity: Identity, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        super().__init__(identity, tokenizer)
        self.model = model

    def kv_cache(self) -> "TorchCache":
        return TorchCache(self)

    def describe(self) -> str:
        dtype = str(self.model.dtype).removeprefix("torch.")
        threads = torch.get_num_threads()
        return f"torch {torch.__version__} {dtype} on {self.model.device}, {threads} threads"

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values per token."""
        return token_bytes(self.model)


class TorchCache:
    """A KVCache of transformers."""

    def __init__(self, lm: TorchModel) -> None:
        self._lm = lm
        self._cache = DynamicCache(config=lm.model.config)
        self._with_cache: dict[str, Any] = {
            cache_argument(lm.model): self._cache,
            "use_cache": True,
        }
        self.length = 0

    @torch.inference_mode()
    def forward(self, ids: Sequence[int], rows: int | None = None) -> np.ndarray:
        rows = len(ids) if rows is None else rows
        if not ids:
            return np.empty((0, self._lm.vocab_size), np.float32)
        fed = torch.tensor([ids], device=self._lm.model.device)
        out = self._lm.model(input_ids=fed, logits_to_keep=max(1, rows), **self._with_cache)
        self.length += len(ids)
        logits = out.logits[0, len(out.logits[0]) - rows :, : self._lm.vocab_size]
        return np.asarray(logits.float().cpu().numpy())

    def rollback(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot roll a cache of {self.length} back to {length}")
        if length < self.length:
            self._cache.crop(length - self.length)
            self.length = length


def cache_argument(model: PreTrainedModel) -> str:
    """What forward calls the cache: renamed in transformers 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def load_folder(
    where: str, side: str, options: ModelOptions, name: str | None = None
) -> TorchModel:
    """The model at a local folder, or `bundled`. BadInput or Incompatible, as
    `hedge.common.loading.load`.
    """
    if options.gpu_layers:
        raise BadInput(
            f"--gpu-layers {options.gpu_layers} is for .gguf files; {where} runs in torch, where "
            "--device cuda does it"
        )
    use_threads(options.threads)
    folder = bundled_folder() / side if where == BUNDLED else Path(where)
    check_folder(folder, side)
    source = str(folder)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        loader: Any = AutoModelForCausalLM
        loaded, report = loader.from_pretrained(
            source,
            use_safetensors=True,
            dtype=DTYPES[options.dtype or "float32"],
            trust_remote_code=False,
            output_loading_info=True,
        )
        model: PreTrainedModel = loaded.to(options.device or "cpu").eval()
    except Exception as error:
        # A config.json can be wrong in as many ways as transformers has exceptions.
        raise BadInput(f"cannot load the {side} from {where}: {first_line(error)}") from None
    _check_weights(report, where)
    _check_cache(model, where)
    vocab_size, tokenizer_fingerprint = vocabulary(tokenizer.get_vocab())
    if vocab_size > model.config.get_text_config().vocab_size:
        rows = model.config.get_text_config().vocab_size
        raise BadInput(f"the tokenizer of {where} has {vocab_size} ids, its model only {rows}")
    identity = Identity(
        name=name or (f"{BUNDLED} {side}" if where == BUNDLED else folder.name),
        fingerprint=weights_fingerprint(model),
        tokenizer_fingerprint=tokenizer_fingerprint,
        vocab_size=vocab_size,
        context=choose_context(
            trained_context(model.config), token_bytes(model), options.context, where
        ),
        trained_context=trained_context(model.config),
        end_ids=tuple(
            token
            for token in find_end_ids(model.generation_config, tokenizer)
            if token < vocab_size
        ),
        begin_id=tokenizer.bos_token_id,
    )
    return TorchModel(identity, model, tokenizer)


def token_bytes(model: PreTrainedModel) -> int:
    """Bytes of keys and values per token."""
    return cached_bytes(model.config, model.dtype.itemsize)


def cached_bytes(model_config: PreTrainedConfig, itemsize: int) -> int:
    """Bytes of keys and values per token, of numbers of `itemsize` bytes."""
    config: Any = model_config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(size) * itemsize


def check_folder(folder: Path, side: str) -> None:
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
                entries: Any = (
                    json.loads(file.read(header)) if header <= path.stat().st_size else None
                )
                needed = (
                    max(e["data_offsets"][1] for n, e in entries.items() if n != "__metadata__")
                    + header
                    + 8
                )
            except (ValueError, TypeError, KeyError, AttributeError):
                raise BadInput(f"{path} is not a safetensors file") from None
        if path.stat().st_size < needed:
            raise BadInput(f"{path} is cut short: {path.stat().st_size} of {needed} bytes")


def _check_weights(report: dict[str, Any], where: str) -> None:
    """What the file lacks would be random, and what it has too much of would be left out."""
    for what in ("missing", "unexpected", "mismatched"):
        if names := sorted(map(str, report.get(f"{what}_keys") or ())):
            raise BadInput(
                f"the weights of {where} do not fit its config.json: {len(names)} {what}, such as "
                f"{names[0]}"
            )


def _check_cache(model: PreTrainedModel, where: str) -> None:
    """Only plain full-attention layers give a fresh forward's values after a crop."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers} - {DynamicLayer}
    if kinds or getattr(model, "_is_stateful", False):
        named = ", ".join(sorted(kind.__name__ for kind in kinds)) or "a recurrent state"
        raise Incompatible(f"the cache of {where} cannot be rolled back: it holds {named}")


def trained_context(model_config: PreTrainedConfig) -> int:
    """Tokens that the model knows."""
    config = model_config.get_text_config()
    return int(
        getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 2048
    )


def find_end_ids(
    generation: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """What ends an answer, by the files of the model."""
    configured: Any = generation.eos_token_id if generation else None
    ids = configured if isinstance(configured, list) else [configured, tokenizer.eos_token_id]
    return tuple(sorted({int(token) for token in ids if token is not None}))


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Names the weights as loaded: shapes, and evenly spaced samples of the parameters' bytes."""
    digest = hashlib.blake2b(digest_size=8)
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLE * _SAMPLES)].float().cpu().numpy()
        digest.update(f"{name} {tuple(parameter.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()


def use_threads(count: int | None) -> None:
    """Sets torch's threads, when given."""
    if count is not None:
        check_threads(count)
        torch.set_num_threads(count)
