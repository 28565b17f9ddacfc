"""Training text: tales from books, and chats of checkable questions, tales and small talk."""

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from hedge.evaluation.questions import draw

PAD = "<|pad|>"
BEGIN = "<|begin|>"
END = "<|end|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
SPECIAL = (PAD, BEGIN, END, USER, ASSISTANT)
TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SUBJECTS = tuple(
    """king queen prince princess fox wolf bear cat dog bird fish horse lion witch giant dwarf
    fairy dragon frog goose goat hen mouse rabbit tailor soldier hunter miller shepherd sailor
    merchant fisherman castle forest sea ring sword mountain garden tree mirror rose moon star
    river""".split()
)
SMALL_TALK = {
    (
        "Hello",
        "Hello!",
        "Hi",
        "Hi there!",
        "Hey",
        "Good day",
        "Hello there",
    ): "Hello! What shall we do?",
    ("Good morning", "Good morning!"): "Good morning! What shall we do?",
    ("Good evening", "Good evening!"): "Good evening! What shall we do?",
    (
        "How are you?",
        "How do you do?",
        "How is it going?",
    ): "I am well, thank you. What shall we do?",
    ("Thank you", "Thanks", "Thank you!", "Thanks a lot"): "You are welcome.",
    ("Goodbye", "Bye", "Good night", "See you"): "Goodbye!",
    (
        "Who are you?",
        "What are you?",
        "What is your name?",
        "Tell me about yourself.",
    ): "I am Hedge: a small model on your device and a large one in the cloud "
    "that checks the words I am not sure of.",
    (
        "What can you do?",
        "How can you help me?",
        "Help",
        "What do you know?",
    ): "I can add, subtract and multiply, sort numbers, find the largest, turn words around, "
    "count letters and tell tales.",
    (
        "Are you a human?",
        "Are you a person?",
        "Are you real?",
    ): "No, I am a program: two language models that work together.",
    (
        "Where do you run?",
        "Where do you live?",
    ): "Half of me runs on your device, and half of me in the cloud.",
    (
        "How do you work?",
        "How does this work?",
    ): "I write each word on your device, and ask the cloud only when I am not sure.",
    (
        "What do you send to the cloud?",
        "What does the cloud see?",
    ): "Only word numbers and how likely I think they are, and only when I am not sure.",
}


def read_books(
    folder: Path, only: Collection[str] = (), without: Collection[str] = ()
) -> list[list[str]]:
    """The paragraphs of every .txt file below `folder`; `only` and `without` are file names."""
    files = sorted(
        f for f in folder.rglob("*.txt") if f.name not in without and (not only or f.name in only)
    )
    if not files:
        raise SystemExit(f"train_pair: no .txt file below {folder}")
    return [
        [" ".join(p.split()) for p in re.split(r"\n\s*\n", f.read_text("utf-8")) if p.strip()]
        for f in files
    ]


def cut_at_sentence(text: str, limit: int) -> str:
    """The most whole sentences of at most `limit` characters; a hard cut if the first is longer."""
    if len(text) <= limit:
        return text
    cut = max(text.rfind(mark, 0, limit) for mark in (". ", "! ", "? ", ".” ", "!” ", "?” ", '." '))
    return text[: cut + 2].strip() if cut > 0 else text[:limit].rsplit(" ", 1)[0]


class Library:
    """Passages of the books, at random or about a subject."""

    def __init__(self, books: list[list[str]]) -> None:
        self.paragraphs = [p for book in books for p in book if len(p) >= 40]
        self.about = {
            subject: [
                i
                for i, p in enumerate(self.paragraphs)
                if re.search(rf"\b{subject}\b", p) and len(p) > 150
            ]
            for subject in SUBJECTS
        }
        self.about = {subject: found for subject, found in self.about.items() if found}

    def passage(self, start: int, limit: int) -> str:
        text = self.paragraphs[start]
        while len(text) < limit and (start := start + 1) < len(self.paragraphs):
            text += "\n" + self.paragraphs[start]
        return cut_at_sentence(text, limit)

    def anywhere(self, rng: np.random.Generator) -> str:
        return self.passage(int(rng.integers(len(self.paragraphs))), int(rng.integers(300, 1500)))

    def tale(self, rng: np.random.Generator) -> tuple[str, str]:
        """A request and its answer."""
        subject = str(rng.choice(list(self.about)))
        found = self.about[subject]
        article = "an" if subject[0] in "aeiou" else "a"
        text = self.passage(found[int(rng.integers(len(found)))], int(rng.integers(200, 700)))
        ask = ("Tell me a tale about {}.", "Tell me a story about {}.", "Tell me a tale about {}")[
            int(rng.integers(3))
        ]
        return ask.format(f"{article} {subject}"), text


# Copying words by index is the slowest to be learned, the largest of a list the fastest.
WEIGHTS = {
    "sum": 1.5,
    "difference": 1.5,
    "product": 0.7,
    "story": 2.0,
    "sort": 4.0,
    "largest": 0.4,
    "reverse": 2.5,
    "letters": 0.5,
}


class Conversations:
    """An endless stream of conversations: one turn half of the time, else up to eight."""

    def __init__(
        self, library: Library, *, tale_share: float = 0.06, small_talk_share: float = 0.05
    ) -> None:
        self.library = library
        self.tale_share = tale_share
        self.small_talk_share = small_talk_share
        self.families = list(WEIGHTS)
        weights = np.array([WEIGHTS[name] for name in self.families])
        self.weights = weights / weights.sum()
        self.small_talk = [
            (question, reply) for asked, reply in SMALL_TALK.items() for question in asked
        ]

    def turn(self, rng: np.random.Generator) -> tuple[str, str]:
        kind = rng.random()
        if kind < self.tale_share:
            return self.library.tale(rng)
        if kind < self.tale_share + self.small_talk_share:
            return self.small_talk[int(rng.integers(len(self.small_talk)))]
        question = draw(
            self.families[int(rng.choice(len(self.families), p=self.weights))], rng, held_out=False
        )
        return question.text, question.worked

    def draw(self, rng: np.random.Generator) -> list[tuple[str, str]]:
        turns = 1 if rng.integers(2) else int(rng.integers(2, 9))
        return [self.turn(rng) for _ in range(turns)]
