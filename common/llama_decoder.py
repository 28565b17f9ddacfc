"""llama.cpp's own calls: the library, what it complains of, and a context to decode in."""

import ctypes
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from hedge.common.errors import BadInput, HedgeError, Incompatible

INSTALL = "pip install 'hedge-hlm[llama]'"
# Ids of one llama_decode; longer input goes through in chunks.
BATCH = 256
_ERROR = 4
errors: deque[str] = deque(maxlen=8)
_llama: Any = None


def llama_cpp() -> Any:
    """The bindings, their log turned into `errors`. BadInput with what to type when they are not
    installed.
    """
    global _llama
    if _llama is None:
        try:
            from llama_cpp import llama_cpp as bindings
        except ImportError as error:
            raise BadInput(
                f"a .gguf file runs in llama.cpp, which is not installed ({error}): {INSTALL}"
            ) from None
        bindings.llama_log_set(_hear, ctypes.c_void_p(0))
        bindings.llama_backend_init()
        _llama = bindings
    return _llama


def _note(level: int, text: bytes | None, _: object) -> None:
    if level == _ERROR and text and (line := text.decode("utf-8", "replace").strip()):
        errors.append(line)


# Lives as long as the process: llama.cpp keeps its address.
_hear = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_note)


def read_cause() -> str:
    """The first of `errors` since they were cleared: the others follow from it."""
    return errors[0].partition(": ")[2] or errors[0] if errors else "it does not say why"


class LoadedModel(Protocol):
    """What a decoder needs of a model: `rows` is the width of its logits, `handle` llama.cpp's
    model.
    """

    name: str
    vocab_size: int
    rows: int
    threads: int
    handle: Any


class Decoder:
    """A llama_context: room for `capacity` ids of `sessions` sequences, and a batch of up to
    `batch` ids to fill.

    The cells are one pool, or with `apart` every sequence has its own share: then they lie in the
    order of their positions whatever was dropped before, and attention, which is fused, sums them
    in that order.
    """

    def __init__(
        self,
        lm: LoadedModel,
        capacity: int,
        batch: int = BATCH,
        sessions: int = 1,
        *,
        apart: bool = False,
    ) -> None:
        llama = self._llama = llama_cpp()
        self._lm = lm
        self.capacity = capacity
        wanted = llama.llama_context_default_params()
        wanted.n_ctx = capacity
        wanted.n_batch = batch
        wanted.n_ubatch = batch
        wanted.n_seq_max = sessions
        wanted.kv_unified = not apart
        wanted.no_perf = True
        if apart:
            wanted.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        wanted.n_threads = wanted.n_threads_batch = lm.threads
        errors.clear()
        self._handle = llama.llama_init_from_model(lm.handle, wanted)
        if not self._handle:
            what = (
                f"cannot fuse the attention of {lm.name}, or has no memory"
                if apart
                else "has no memory"
            )
            raise HedgeError(f"llama.cpp {what} for {capacity} tokens of {lm.name}: {read_cause()}")
        self._memory = llama.llama_get_memory(self._handle)
        self._batch = llama.llama_batch_init(batch, 0, 1)
        views = (self._batch.token, self._batch.pos, self._batch.n_seq_id, self._batch.logits)
        self._ids, self._positions, counts, self._wanted = (
            np.ctypeslib.as_array(view, (batch,)) for view in views
        )
        counts[:] = 1
        # The sequence of each id, in the batch's own memory.
        self._sequences = [self._batch.seq_id[i].contents for i in range(batch)]
        weakref.finalize(self, _free, llama, self._batch, self._handle).atexit = False

    def decode(
        self,
        ids: Sequence[int],
        positions: np.ndarray,
        sequences: Sequence[int],
        wanted: np.ndarray,
    ) -> np.ndarray:
        """One pass over up to `batch` ids; float32 [wanted.sum(), vocab_size]. HedgeError when
        llama.cpp fails.
        """
        count = len(ids)
        self._ids[:count], self._positions[:count], self._wanted[:count] = ids, positions, wanted
        for cell, sequence in zip(self._sequences, sequences, strict=False):
            cell.value = sequence
        self._batch.n_tokens = count
        errors.clear()
        if status := self._llama.llama_decode(self._handle, self._batch):
            raise HedgeError(
                f"llama.cpp could not run {count} tokens of {self._lm.name}: status {status}, "
                f"{read_cause()}"
            )
        if not (rows := int(wanted.sum())):
            return np.empty((0, self._lm.vocab_size), np.float32)
        logits = np.ctypeslib.as_array(
            self._llama.llama_get_logits(self._handle), (rows, self._lm.rows)
        )
        return logits[:, : self._lm.vocab_size].copy()

    def forget(self, sequence: int, start: int) -> None:
        """Drops what a sequence, all for -1, holds from position `start` on. Incompatible when its
        memory cannot.
        """
        if not self._llama.llama_memory_seq_rm(self._memory, sequence, start, -1):
            raise Incompatible(
                f"the cache of {self._lm.name} cannot be rolled back: llama.cpp does not drop a "
                "part of it"
            )

    def take_over(self, other: "Decoder") -> None:
        """The first sequence of a smaller decoder."""
        size = self._llama.llama_state_seq_get_size(other._handle, 0)
        held = (ctypes.c_uint8 * size)()
        self._llama.llama_state_seq_get_data(other._handle, held, size, 0)
        if not self._llama.llama_state_seq_set_data(self._handle, held, size, 0):
            raise HedgeError(f"llama.cpp could not move {size} bytes of keys and values")


def _free(llama: Any, batch: Any, handle: Any) -> None:
    llama.llama_batch_free(batch)
    llama.llama_free(handle)
