"""Greedy exact match on held-out questions, batched through transformers' own generate."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from hedge.evaluation.questions import Question, is_correct


@torch.inference_mode()
def answers(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    max_new_tokens: int = 160,
) -> list[str]:
    """One greedy reply per user text."""
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": t}], tokenize=False, add_generation_prompt=True
        )
        for t in texts
    ]
    batch = tokenizer(
        chats, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    ).to(model.device)
    anything: Any = model
    out = anything.generate(**batch, do_sample=False, max_new_tokens=max_new_tokens)
    replies = tokenizer.batch_decode(
        out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return [str(reply) for reply in replies]


def score(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    batch: int = 64,
) -> dict[str, float]:
    """Share of right answers per family, and "overall"."""
    right: dict[str, list[bool]] = {}
    ordered = sorted(questions, key=lambda q: len(q.worked))
    for start in range(0, len(ordered), batch):
        part = ordered[start : start + batch]
        for question, reply in zip(
            part, answers(model, tokenizer, [q.text for q in part]), strict=True
        ):
            right.setdefault(question.family, []).append(is_correct(question, reply))
    every = [hit for hits in right.values() for hit in hits]
    return {family: sum(hits) / len(hits) for family, hits in sorted(right.items())} | {
        "overall": sum(every) / len(every)
    }
