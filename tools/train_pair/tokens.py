"""The tokenizer of the pair: byte-level BPE, every digit a token of its own."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tools.train_pair.text import BEGIN, END, PAD, SPECIAL, TEMPLATE, Conversations

CHATS = 20_000


def train_tokenizer(conversations: Conversations, vocab_size: int, seed: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    rng = np.random.default_rng(seed)
    chats = (part for _ in range(CHATS) for turn in conversations.draw(rng) for part in turn)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        (text for texts in (conversations.library.paragraphs, chats) for text in texts), trainer
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    """Writes the tokenizer, with the chat template, as transformers reads it."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    fast.model_max_length = 1024
    fast.save_pretrained(folder)
    return fast
