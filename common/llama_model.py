"""A language model in llama.cpp: any GGUF decoder, by the low-level calls of llama-cpp-python.

Its `Llama` class is not used: with logits of every position it keeps context x |V| floats.
"""

import ctypes
import os
import unicodedata
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from hedge.common.chat import ChatTemplate, encode_chat
from hedge.common.errors import BadInput, HedgeError, Incompatible
from hedge.common.gguf import Header, read_header
from hedge.common.llama_decoder import BATCH, INSTALL, Decoder, errors, llama_cpp, read_cause
from hedge.common.model import (
    Identity,
    LanguageModel,
    check_unicode,
    choose_context,
    strip_end,
    vocabulary,
)
from hedge.common.model_options import ModelOptions

# A cache begins with room for so many ids, and doubles.
ROOM = 1024
_CONTROL = 3
_USER_DEFINED = 4
# Tokenizers whose Hugging Face counterpart composes characters first.
_COMPOSING = frozenset({"qwen2", "qwen35"})


class LlamaModel(LanguageModel):
    """A GGUF model. `rows` is the width of its logits, `handle` llama.cpp's model."""

    def __init__(self, identity: Identity, header: Header, handle: Any, threads: int) -> None:
        super().__init__(identity)
        llama = self._llama = llama_cpp()
        self.handle = handle
        self.threads = threads
        self._vocab = llama.llama_model_get_vocab(handle)
        self.rows = int(llama.llama_vocab_n_tokens(self._vocab))
        metadata = header.metadata
        words = metadata["tokenizer.ggml.tokens"]
        kinds = metadata.get("tokenizer.ggml.token_type", ())
        self.specials = {
            words[i]: i for i, kind in enumerate(kinds) if kind == _CONTROL and i < self.vocab_size
        }
        # llguidance takes these for special tokens in Hugging Face's tokenizers.
        self.marks = {
            i
            for i, kind in enumerate(kinds)
            if kind == _USER_DEFINED and words[i][:1] == "<" and words[i][-1:] == ">"
        }
        self._composes = metadata.get("tokenizer.ggml.pre") in _COMPOSING
        self.chat_template = source = str(metadata.get("tokenizer.chat_template") or "")
        begin, end = (
            words[number] if number >= 0 else ""
            for number in (llama.llama_vocab_bos(self._vocab), llama.llama_vocab_eos(self._vocab))
        )
        self._template = ChatTemplate(source, self.name, begin, end) if source else None
        # A destructor may fill such a queue: a cache is given back by whichever thread drops it,
        # perhaps within `take`.
        self._idle: SimpleQueue[Decoder] = SimpleQueue()
        self.token_bytes = token_bytes(header)

    def kv_cache(self) -> "LlamaCache":
        return LlamaCache(self)

    def encode_chat(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        if self._template is None:
            return self.encode_text("\n".join(message["content"] for message in messages))
        return encode_chat(messages, self.specials, self._template.render, self._encode, tools)

    def encode_infill(self, before: str, behind: str) -> list[int]:
        llama = self._llama
        known = (llama.llama_vocab_fim_pre, llama.llama_vocab_fim_suf, llama.llama_vocab_fim_mid)
        prefix, suffix, middle = (int(find(self._vocab)) for find in known)
        if min(prefix, suffix, middle) < 0:
            return super().encode_infill(before, behind)
        check_unicode(before + behind)
        return [prefix, *self._encode(before, False), suffix, *self._encode(behind, False), middle]

    def encode_text(self, text: str) -> list[int]:
        check_unicode(text)
        ends = {*self.end_ids, int(self._llama.llama_vocab_eos(self._vocab))}
        return strip_end(
            self._encode(text, False, add_special=True), self._encode(text, False), ends
        )

    def _encode(self, text: str, parse: bool, *, add_special: bool = False) -> list[int]:
        data = (unicodedata.normalize("NFC", text) if self._composes else text).encode()
        ids = (ctypes.c_int32 * (len(data) + 8))()
        count = self._llama.llama_tokenize(
            self._vocab, data, len(data), ids, len(ids), add_special, parse
        )
        if count < 0:
            raise HedgeError(f"llama.cpp could not tokenize {len(data)} bytes")
        return ids[:count]

    def decode(self, ids: Sequence[int]) -> str:
        held = (ctypes.c_int32 * len(ids))(*ids)
        room = 16 * len(ids) + 64
        for _ in range(2):
            text = ctypes.create_string_buffer(room)
            size = self._llama.llama_detokenize(
                self._vocab, held, len(ids), text, room, False, False
            )
            if size >= 0:
                break
            room = -size
        return text.raw[:size].decode("utf-8", "replace")

    def _grammar_tokenizer(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(
            TokenizerWrapper(_Words(self, self._encode)), eos_token=list(self.end_ids)
        )

    def word(self, token: int) -> bytes:
        """The bytes that an id stands for."""
        text = ctypes.create_string_buffer(256)
        size = self._llama.llama_token_to_piece(self._vocab, token, text, len(text), 0, True)
        if size < 0:
            text = ctypes.create_string_buffer(-size)
            size = self._llama.llama_token_to_piece(self._vocab, token, text, len(text), 0, True)
        return text.raw[:size]

    def describe(self) -> str:
        built = self._llama.llama_print_system_info().decode().strip(" |")
        flags = " ".join(
            word.partition(" = ")[0].rpartition(": ")[2]
            for word in built.split(" | ")
            if word.endswith("= 1")
        )
        return f"llama.cpp ({flags}), {self.threads} threads"

    def take(self, capacity: int) -> Decoder:
        """A decoder with room for so many ids, empty."""
        with suppress(Empty):
            found = self._idle.get_nowait()
            if found.capacity >= capacity:
                found.forget(-1, 0)
                return found
        return Decoder(self, capacity, min(BATCH, capacity))

    def give(self, decoder: Decoder) -> None:
        """Takes a decoder back. The one with the most room is kept."""
        with suppress(Empty):
            decoder = max(decoder, self._idle.get_nowait(), key=lambda one: one.capacity)
        self._idle.put(decoder)


class _Words:
    """What llguidance asks of a tokenizer: special tokens are those whose bytes begin with 0xff."""

    def __init__(self, lm: LlamaModel, encode: Callable[[str, bool], list[int]]) -> None:
        self._encode = encode
        self.eos_token_id = lm.end_ids[0]
        self.bos_token_id = lm.begin_id
        special = {*lm.specials.values(), *lm.end_ids, *lm.marks}
        self.tokens = [
            (b"\xff" if token in special else b"") + lm.word(token)
            for token in range(lm.vocab_size)
        ]
        self.special_token_ids = sorted(special)

    def __call__(self, text: str) -> list[int]:
        return self._encode(text, False)


class LlamaCache:
    """A KVCache of llama.cpp: one sequence in a decoder of its own, which is replaced by a larger
    one when it is full.
    """

    def __init__(self, lm: LlamaModel) -> None:
        self._lm = lm
        # The decoder in use, if any: a list that outlives this object until the model has it back.
        self._held: list[Decoder] = []
        self.length = 0
        weakref.finalize(self, _give_back, lm, self._held).atexit = False

    def forward(self, ids: Sequence[int], rows: int | None = None) -> np.ndarray:
        rows = len(ids) if rows is None else rows
        decoder = self._with_room(self.length + len(ids))
        logits = []
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            positions = np.arange(self.length, self.length + len(part))
            wanted = np.arange(start, start + len(part)) >= len(ids) - rows
            logits.append(decoder.decode(part, positions, [0] * len(part), wanted))
            self.length += len(part)
        if len(logits) == 1:
            return logits[0]
        return np.concatenate(logits) if logits else np.empty((0, self._lm.vocab_size), np.float32)

    def rollback(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot roll a cache of {self.length} back to {length}")
        if length < self.length:
            self._held[0].forget(0, length)
            self.length = length

    def _with_room(self, length: int) -> Decoder:
        if length > self._lm.context:
            raise ValueError(f"{length} tokens in a context of {self._lm.context}")
        if not self._held or self._held[0].capacity < length:
            room = ROOM
            while room < length:
                room *= 2
            larger = self._lm.take(min(room, max(self._lm.context, ROOM)))
            if self._held:
                larger.take_over(self._held[0])
            self._held[:] = [larger]
        return self._held[0]


def _give_back(lm: LlamaModel, held: list[Decoder]) -> None:
    for decoder in held:
        lm.give(decoder)


def load_gguf(path: Path, side: str, options: ModelOptions) -> LlamaModel:
    """The model of a GGUF file. BadInput or Incompatible, as `hedge.common.loading.load`."""
    header = read_header(path)
    _check_kind(header, path, side)
    words = header.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(words, list) or not words or not isinstance(words[0], str):
        raise BadInput(f"{path} has no tokenizer")
    llama = llama_cpp()
    if options.gpu_layers and not llama.llama_supports_gpu_offload():
        raise BadInput(
            f"gpu-layers {options.gpu_layers}: this llama.cpp was built without a GPU; "
            f"CMAKE_ARGS=-DGGML_CUDA=on {INSTALL}"
        )
    wanted = llama.llama_model_default_params()
    wanted.n_gpu_layers = options.gpu_layers
    errors.clear()
    handle = llama.llama_model_load_from_file(os.fsencode(path), wanted)
    if not handle:
        raise BadInput(f"cannot load the {side} from {path}: {read_cause()}")
    _check_memory(llama, handle, path)
    size, tokenizer_fingerprint = vocabulary({word: number for number, word in enumerate(words)})
    vocab = llama.llama_model_get_vocab(handle)
    kinds = header.metadata.get("tokenizer.ggml.token_type") or [_CONTROL] * len(words)
    begin = int(llama.llama_vocab_bos(vocab))
    trained = int(llama.llama_model_n_ctx_train(handle))
    identity = Identity(
        name=path.name,
        fingerprint=header.fingerprint,
        tokenizer_fingerprint=tokenizer_fingerprint,
        vocab_size=size,
        context=choose_context(trained, token_bytes(header), options.context, str(path)),
        trained_context=trained,
        # Of what llama.cpp takes for an end, plain words such as </s> in a model that ends
        # otherwise are left out.
        end_ids=tuple(
            i for i in range(size) if kinds[i] == _CONTROL and llama.llama_vocab_is_eog(vocab, i)
        ),
        begin_id=begin if begin >= 0 else None,
    )
    lm = LlamaModel(identity, header, handle, options.threads or os.cpu_count() or 1)
    tried = lm.kv_cache()
    tried.forward([0, 0], 0)
    tried.rollback(1)
    return lm


def token_bytes(header: Header) -> int:
    """Bytes of keys and values per token, which are kept as float16."""
    width = int(header.of_architecture("embedding_length", 0))
    heads = header.of_architecture("attention.head_count", 1)
    held = header.of_architecture("attention.head_count_kv", heads)
    layers = int(header.of_architecture("block_count", 0))
    every = held if isinstance(held, list) else [held] * layers
    size = width // (max(heads) if isinstance(heads, list) else heads or 1)
    key, value = (
        int(header.of_architecture(f"attention.{what}_length", size)) for what in ("key", "value")
    )
    return max(1, 2 * sum(every) * (key + value))


def _check_kind(header: Header, path: Path, side: str) -> None:
    """What says of itself that it is no language model."""
    if header.architecture == "clip" or header.metadata.get("general.type") == "mmproj":
        raise BadInput(
            f"{path} is a vision projector, not a language model: give the model's own file as the "
            f"{side}"
        )
    if header.metadata.get("general.type") == "adapter":
        raise BadInput(f"{path} is an adapter, not a language model: merge it into its model first")
    if header.of_architecture("attention.causal") is False or header.of_architecture(
        "pooling_type"
    ):
        raise BadInput(
            f"{path} is an embedding model ({header.architecture}): it says no next token"
        )


def _check_memory(llama: Any, handle: Any, path: Path) -> None:
    """Only plain full attention gives a fresh forward's values after a rollback."""
    if llama.llama_model_has_encoder(handle):
        raise Incompatible(f"{path} has an encoder: only decoders can draft and verify")
    for what, found in (
        ("a recurrent state", llama.llama_model_is_recurrent(handle)),
        ("a hybrid memory", llama.llama_model_is_hybrid(handle)),
        ("a diffusion model", llama.llama_model_is_diffusion(handle)),
        (
            f"a sliding window of {llama.llama_model_n_swa(handle)}",
            llama.llama_model_n_swa(handle) > 0,
        ),
    ):
        if found:
            raise Incompatible(f"the cache of {path} cannot be rolled back: it holds {what}")
