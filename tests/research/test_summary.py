"""What a study says of its packets: means, paired gains and their intervals, worked by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from hedge.common.errors import BadInput
from research.wireless.similarity import Embedding
from research.wireless.summary import ADAPTIVE, summarise

SYSTEMS = ("ml", "receiver only", *ADAPTIVE)


def line(packet: int, right: dict[str, int], similarity: float | None = None) -> dict[str, Any]:
    more = {} if similarity is None else {"similarity": similarity}
    entries = [
        {
            "snr_db": 5.0,
            "system": system,
            "right": right.get(system, 4),
            "chrf": 50.0,
            "masked": 2,
            "uses": 48,
        }
        | more
        for system in SYSTEMS
    ]
    return {"packet": packet, "qam": 4, "entries": entries}


def test_gains_are_paired_and_an_interval_is_of_packets() -> None:
    # Eight tokens. ML has 2 and 6 right, one adaptive rule one more in each: a gain of an eighth in
    # any resample.
    lines = [line(0, {"ml": 2, ADAPTIVE[0]: 3}), line(1, {"ml": 6, ADAPTIVE[0]: 7})]
    rows = {row["system"]: row for row in summarise(lines, 8)}
    assert rows["ml"]["accuracy"] == pytest.approx(0.5)
    assert rows["ml"][f"accuracy gain of {ADAPTIVE[0]}"] == pytest.approx([1 / 8] * 3)
    # 5 of 8 over 4 of 8; a resample is of one packet, the other, or both.
    assert rows[ADAPTIVE[0]]["accuracy times ml"] == pytest.approx([1.25, 7 / 6, 1.5])
    assert rows["receiver only"][f"accuracy gain of {ADAPTIVE[0]}"] == pytest.approx(
        [1 / 8, -1 / 8, 3 / 8]
    )
    assert rows["ml"]["masked"] == 0.25
    # log2 C(8, 2).
    assert rows["ml"]["position_bits"] == pytest.approx(4.807355)
    assert "similarity" not in rows["ml"]


def test_only_packets_of_all_systems_count() -> None:
    short = line(1, {"ml": 8})
    short["entries"] = [entry for entry in short["entries"] if entry["system"] != "receiver only"]
    rows = summarise([line(0, {"ml": 2}, 0.5), short], 8)
    assert {row["packets"] for row in rows} == {1}
    assert rows[0]["accuracy"] == 0.25
    assert rows[0]["similarity"] == 0.5


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Embedding:
    folder = tmp_path_factory.mktemp("encoder")
    words = Tokenizer(
        models.WordLevel(
            {word: i for i, word in enumerate(["?", "king", "queen", "fox"])}, unk_token="?"
        )
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
    )
    BertModel(config).save_pretrained(folder)
    return Embedding(str(folder))


def test_similarity_is_a_cosine(encoder: Embedding) -> None:
    assert encoder.similarity("king queen", "king queen") == pytest.approx(1)
    assert encoder.similarity("fox", "king queen") == pytest.approx(
        encoder.similarity("king queen", "fox")
    )
    assert encoder.similarity("fox", "king queen") < 0.99
    assert encoder.similarity(" ", "king") == 0
    # Longer than the encoder sees: cut.
    assert encoder.similarity("king " * 20, "king " * 8) == pytest.approx(1)


def test_a_folder_without_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a folder with an embedding model"):
        Embedding(str(tmp_path / "none"))
    with pytest.raises(BadInput, match="cannot load an embedding model"):
        Embedding(str(tmp_path))
