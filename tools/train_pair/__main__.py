"""python -m tools.train_pair --text FOLDER: trains the models of the bundled pair, scores them."""

import argparse
import json
import logging
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from hedge.evaluation.questions import draw_held_out
from research.wireless.masked import BUNDLED_MLM
from tools.train_pair.batches import Batches
from tools.train_pair.masked import (
    Packets,
    build,
    guesser,
    held_out_text,
    hidden_right,
    masked_tokenizer,
)
from tools.train_pair.score import score
from tools.train_pair.text import BEGIN, END, PAD, Conversations, Library, read_books
from tools.train_pair.tokens import save_tokenizer, train_tokenizer
from tools.train_pair.train import Schedule, Size, train

MODELS = Path("models")
SIZES = {
    "slm": Size(layers=2, width=160, ffn=448, heads=5),
    "llm": Size(layers=9, width=256, ffn=704, heads=8),
}
LENGTHS = (256, 512, 256, 1024)
SHARES = (0.05, 0.15, 0.5)
logger = logging.getLogger("train_pair")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.train_pair", description=__doc__)
    parser.add_argument(
        "--text", type=Path, required=True, help="folder of plain-text books (.txt, UTF-8)"
    )
    parser.add_argument(
        "--out", type=Path, default=MODELS, help="where slm/ and llm/ are written (default: models)"
    )
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/pair"),
        help="checkpoints; the same folder resumes a run",
    )
    parser.add_argument("--only", choices=("slm", "llm", "mlm"), help="train one of them")
    parser.add_argument("--slm-steps", type=int, default=620)
    parser.add_argument("--llm-steps", type=int, default=990)
    parser.add_argument("--mlm-steps", type=int, default=6000)
    parser.add_argument("--batch-tokens", type=int, default=4096, help="tokens per step")
    parser.add_argument(
        "--lr", type=float, default=0.02, help="peak rate of Muon; AdamW runs at 0.15 of it"
    )
    parser.add_argument(
        "--prose-share", type=float, default=0.12, help="share of documents that are plain prose"
    )
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--questions", type=int, default=400, help="held-out questions to score on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--init", type=Path, help="folder with slm/ and llm/ to start the weights from"
    )
    parser.add_argument(
        "--export",
        action="store_true",
        help="write and score the last checkpoint without training on",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    conversations = Conversations(Library(read_books(args.text)))
    args.runs.mkdir(parents=True, exist_ok=True)
    kept = args.runs / "tokenizer.json"
    if not kept.exists():
        logger.info("training the tokenizer")
        train_tokenizer(conversations, args.vocab_size, args.seed).save(str(kept))
    tokenizer = Tokenizer.from_file(str(kept))
    if args.only in (None, "mlm"):
        train_masked(args, tokenizer)
    if args.only == "mlm":
        return
    batches = Batches(
        conversations, tokenizer, args.batch_tokens, LENGTHS, args.prose_share, args.seed
    )
    for name in (args.only,) if args.only else ("slm", "llm"):
        train_chat(args, name, tokenizer, batches)


def train_chat(args: argparse.Namespace, name: str, tokenizer: Tokenizer, batches: Batches) -> None:
    """One model of the pair: trained, or its last checkpoint loaded; then written and scored."""
    torch.manual_seed(args.seed)
    begin, end, pad = (int(tokenizer.token_to_id(token) or 0) for token in (BEGIN, END, PAD))
    model = SIZES[name].build(tokenizer.get_vocab_size(), end=end, begin=begin, pad=pad)
    if args.init:
        given = LlamaForCausalLM.from_pretrained(args.init / name, dtype=torch.float32)
        model.load_state_dict(given.state_dict())
    logger.info("%s: %.2f M parameters", name, count_parameters(model) / 1e6)
    steps = args.slm_steps if name == "slm" else args.llm_steps
    if args.export:
        saved = torch.load(args.runs / f"{name}.ckpt", map_location=args.device, weights_only=True)
        model.load_state_dict(saved["model"])
        seconds = saved["seconds"]
        steps = saved["step"]
    else:
        seconds = train(name, model, batches, Schedule(steps), args.runs, args.device, args.lr)
    save_weights(model, args.out / name)
    fast = save_tokenizer(tokenizer, args.out / name)
    started = time.monotonic()
    questions = draw_held_out(args.questions, seed=args.seed + 1)
    # What is scored is what was written: the rounded weights, run in float32.
    marks = score(model.float(), fast, questions)
    device = args.device
    if device == "cpu":
        device = f"cpu ({torch.get_num_threads()} threads, {platform.machine()})"
    facts = {
        "parameters": count_parameters(model),
        "steps": steps,
        "tokens": steps * args.batch_tokens,
        "training_seconds": round(seconds),
        "device": device,
        "held_out_questions": args.questions,
        "exact_match": {family: round(mark, 4) for family, mark in marks.items()},
    }
    write_json(args.out / name / "training.json", facts)
    took = time.monotonic() - started
    logger.info("%s scored in %.0f s: %s", name, took, json.dumps(facts["exact_match"]))


def count_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def save_weights(model: Any, folder: Path) -> None:
    model.eval().to(torch.bfloat16).save_pretrained(folder)
    # safetensors writes files that only their owner may read.
    (folder / "model.safetensors").chmod(0o644)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def train_masked(args: argparse.Namespace, tokenizer: Tokenizer) -> None:
    """The masked model of `hedge wireless`, and the text that it has not seen."""
    folder = args.out / "mlm" if args.out != MODELS else BUNDLED_MLM
    torch.manual_seed(args.seed)
    fast = masked_tokenizer(tokenizer, folder)
    model = build(fast, LlamaForCausalLM.from_pretrained(args.out / "llm", dtype=torch.float32))
    packets = Packets.of(args.text, fast, args.batch_tokens, args.seed, guesser(model, args.device))
    seconds = train(
        "mlm", model, packets, Schedule(args.mlm_steps), args.runs, args.device, args.lr
    )
    save_weights(model, folder)
    held_out = held_out_text(args.text)
    (folder / "held-out.txt").write_text(held_out)
    # What is scored is what was written: the rounded weights, run in float32.
    model.float().cpu()
    unseen = np.array(fast.encode(held_out, add_special_tokens=False))
    counts = np.bincount(packets.ids, minlength=tokenizer.get_vocab_size())
    (folder / "frequencies.json").write_text(json.dumps(counts.tolist()) + "\n")
    facts = {
        "parameters": count_parameters(model),
        "steps": args.mlm_steps,
        "tokens": args.mlm_steps * args.batch_tokens,
        "training_seconds": round(seconds),
        "held_out_right": {
            f"{share:g} hidden": round(hidden_right(model, unseen, packets.mask, share), 4)
            for share in SHARES
        },
    }
    write_json(folder / "training.json", facts)
    logger.info("mlm: %s", json.dumps(facts))


if __name__ == "__main__":
    main()
