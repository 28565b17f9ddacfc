"""Trains one model: Muon on the layers, AdamW on the rest, checkpoints that resume exactly."""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, ModernBertForMaskedLM

from tools.train_pair.batches import IGNORED
from tools.train_pair.muon import Muon

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Size:
    """The shape of one Llama model."""

    layers: int
    width: int
    ffn: int
    heads: int

    def build(self, vocab_size: int, end: int, begin: int, pad: int) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=self.width,
            intermediate_size=self.ffn,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=begin,
            eos_token_id=end,
            pad_token_id=pad,
        )
        return LlamaForCausalLM(config)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up, constant, then linear decay to zero over the last `decay` of the steps."""

    steps: int
    warmup: int = 50
    decay: float = 0.5

    def factor(self, step: int) -> float:
        return min(
            1.0, (step + 1) / self.warmup, (self.steps - step) / max(1.0, self.decay * self.steps)
        )


Model = LlamaForCausalLM | ModernBertForMaskedLM


class Source(Protocol):
    """What is learned."""

    def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels, each int64 [rows, length], of a step."""
        ...


def _logits(model: Model, inputs: torch.Tensor, learned: torch.Tensor) -> torch.Tensor:
    """[n, vocab] at the n `learned` positions only."""
    parts: Any = model
    if isinstance(model, ModernBertForMaskedLM):
        found: torch.Tensor = parts.decoder(
            parts.head(parts.model(inputs).last_hidden_state[learned])
        )
    else:
        found = parts.lm_head(parts.model(inputs, use_cache=False).last_hidden_state[learned])
    return found


def _optimizers(model: Model, lr: float) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layer" in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or ".layer" not in name]
    return [
        Muon(matrices, lr=lr, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=0.15 * lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def mixed(device: str) -> torch.autocast:
    """bfloat16 where the device is fast with it."""
    fast = device.startswith("cuda") or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=fast)


def train(
    name: str,
    model: Model,
    batches: Source,
    schedule: Schedule,
    folder: Path,
    device: str,
    lr: float = 0.02,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> float:
    """Trains in place and returns the seconds spent, those before a resumption included."""
    torch.nn.Module.to(model, device).train()
    optimizers = _optimizers(model, lr)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{name}.ckpt"
    first = 0
    spent = 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first = saved["step"]
        spent = saved["seconds"]
        logger.info("%s: resuming at step %d of %d", name, first, schedule.steps)

    def save(step: int, seconds: float) -> None:
        states = [optimizer.state_dict() for optimizer in optimizers]
        parts = {
            "model": model.state_dict(),
            "optimizers": states,
            "step": step,
            "seconds": seconds,
        }
        torch.save(parts, temporary := checkpoint.with_suffix(".tmp"))
        temporary.replace(checkpoint)

    start = saved_at = time.monotonic()
    bar = tqdm(
        range(first, schedule.steps),
        initial=first,
        total=schedule.steps,
        desc=name,
        unit="step",
        mininterval=5,
    )
    for step in bar:
        inputs, labels = (part.to(device) for part in batches.at(step))
        with mixed(device):
            learned = labels != IGNORED
            logits = _logits(model, inputs, learned)
        loss = cross_entropy(logits.float(), labels[learned])
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("peak", group["lr"]) * schedule.factor(step)
            optimizer.step()
            optimizer.zero_grad()
        if not math.isfinite(value := loss.item()):
            raise SystemExit(f"train_pair: loss of {name} is {value} at step {step}")
        bar.set_postfix(loss=f"{value:.3f}", refresh=False)
        if time.monotonic() - saved_at >= checkpoint_seconds:
            saved_at = time.monotonic()
            save(step + 1, spent + saved_at - start)
    spent += time.monotonic() - start
    save(schedule.steps, spent)
    return spent
