import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from hedge.common.errors import BadInput, Incompatible
from hedge.common.loading import load
from hedge.common.model import LanguageModel
from hedge.common.torch_model import TorchModel
from tests.conftest import MakeFolder

KINDS = ["llama", "qwen2", "gpt2", "gpt_neox"]
IDS = [1, 5, 3, 2, 8, 4, 9, 7]


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return np.allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_rollback_equals_a_fresh_forward(kind: str, make_lm: Callable[..., LanguageModel]) -> None:
    lm = make_lm(kind=kind)
    prefix = lm.kv_cache()
    prefix.forward([*IDS[:4], 6, 6, 6])
    prefix.rollback(4)
    rolled = prefix.forward(IDS[4:])
    assert close(rolled, lm.kv_cache().forward(IDS)[4:])
    prefix.rollback(0)
    assert close(prefix.forward(IDS), lm.kv_cache().forward(IDS))


@pytest.mark.parametrize("kind", KINDS)
def test_catching_up_in_one_forward_equals_step_by_step(
    kind: str, make_lm: Callable[..., LanguageModel]
) -> None:
    lm = make_lm(kind=kind)
    steps = lm.kv_cache()
    assert close(
        np.concatenate([steps.forward([token]) for token in IDS]), lm.kv_cache().forward(IDS)
    )


def test_only_the_rows_asked_for_come_back(make_lm: Callable[..., LanguageModel]) -> None:
    lm = make_lm()
    whole = lm.kv_cache().forward(IDS)
    assert close(lm.kv_cache().forward(IDS, 2), whole[-2:])
    assert lm.kv_cache().forward(IDS, 0).shape == (0, lm.vocab_size)
    assert lm.kv_cache().forward([]).shape == (0, lm.vocab_size)


def test_padded_rows_are_cut_off(make_lm: Callable[..., LanguageModel]) -> None:
    lm = make_lm(kind="qwen2", padding=5)
    assert lm.vocab_size == 12
    assert lm.kv_cache().forward(IDS).shape == (len(IDS), 12)


def test_rollback_out_of_range_is_a_bug(make_lm: Callable[..., LanguageModel]) -> None:
    prefix = make_lm().kv_cache()
    prefix.forward(IDS)
    with pytest.raises(ValueError, match="roll"):
        prefix.rollback(len(IDS) + 1)


def test_fingerprints_name_the_weights(make_lm: Callable[..., LanguageModel]) -> None:
    one = make_lm(seed=1)
    same = make_lm(seed=1)
    other = make_lm(seed=2)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert (
        one.tokenizer_fingerprint
        == other.tokenizer_fingerprint
        != make_lm(vocab=13).tokenizer_fingerprint
    )


def test_a_sliding_window_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    shape = {
        "vocab_size": 12,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    model = MistralForCausalLM(MistralConfig(num_key_value_heads=1, sliding_window=8, **shape))
    _over(make_folder(), tmp_path, model)
    with pytest.raises(Incompatible, match="SlidingWindow"):
        load(str(tmp_path), "llm")


def test_a_recurrent_cache_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    model = MambaForCausalLM(
        MambaConfig(vocab_size=12, hidden_size=16, num_hidden_layers=1, state_size=4)
    )
    _over(make_folder(), tmp_path, model)
    with pytest.raises(Incompatible, match="rolled back"):
        load(str(tmp_path), "llm")


def _over(folder: Path, target: Path, model: torch.nn.Module) -> None:
    for file in folder.glob("tokenizer*"):
        (target / file.name).write_bytes(file.read_bytes())
    model.save_pretrained(target)  # type: ignore[operator]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        load(str(tmp_path / "nowhere"), "slm")


def test_a_folder_without_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config\.json"):
        load(str(tmp_path), "slm")


def test_pickled_weights_are_not_touched(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BadInput, match="safetensors"):
        load(str(folder), "slm")


@pytest.mark.parametrize(("layers", "word"), [(3, "missing"), (1, "unexpected")])
def test_weights_that_do_not_fit_their_config_are_refused(
    make_folder: MakeFolder, layers: int, word: str
) -> None:
    """Missing ones would be random, another model at every load."""
    folder = make_folder()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
    with pytest.raises(BadInput, match=word):
        load(str(folder), "llm")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"model_type": "llama", "hidden_size": "x"}',
        '{"model_type": "llama", "num_attention_heads": 0}',
    ],
)
def test_a_nonsense_config_is_one_line(make_folder: MakeFolder, content: str) -> None:
    folder = make_folder()
    (folder / "config.json").write_text(content)
    with pytest.raises(BadInput, match="cannot load the llm"):
        load(str(folder), "llm")


def test_an_end_id_beyond_the_tokenizer_is_left_out(make_lm: Callable[..., LanguageModel]) -> None:
    assert make_lm(padding=4, eos=13).end_ids == ()
    assert make_lm(padding=4, eos=3).end_ids == (3,)


def test_half_a_character_and_a_refusing_template_are_bad_input(
    make_lm: Callable[..., LanguageModel],
) -> None:
    lm = make_lm()
    with pytest.raises(BadInput, match="not Unicode"):
        lm.encode_chat([{"role": "user", "content": "a\udce9"}])
    lm.tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(BadInput, match="no such role"):
        lm.encode_chat([{"role": "user", "content": "a"}])


def test_truncated_weights_are_refused(make_folder: MakeFolder) -> None:
    folder = make_folder()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadInput, match="cut short"):
        load(str(folder), "slm")


def test_garbage_weights_are_refused(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json, at all")
    with pytest.raises(BadInput, match="not a safetensors"):
        load(str(folder), "slm")


@pytest.mark.parametrize("text", ["w1 w2", "w1 <|endoftext|>", ""])
def test_a_tokenizer_that_ends_every_text_does_not_end_the_prompt(
    text: str, make_folder: MakeFolder
) -> None:
    """Llama's begin and T5's end around each text; an end that the text itself spells stays."""
    folder = make_folder(eos=11)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = TemplateProcessing(
        single="w9 $A <|endoftext|>", special_tokens=[("w9", 9), ("<|endoftext|>", 11)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    lm = load(str(folder), "slm")
    assert isinstance(lm, TorchModel)
    assert lm.tokenizer.encode(text)[-1] == 11
    own = [{"w1": 1, "w2": 2}.get(word, 11) for word in text.split()]
    assert lm.encode_text(text) == [9, *own]
    assert lm.encode_chat([{"role": "user", "content": text}]) == [9, *own]


def test_conversations_that_become_other_ids_have_other_fingerprints(
    make_folder: MakeFolder,
) -> None:
    folder = make_folder()
    plain = load(str(folder), "slm").chat_fingerprint
    assert plain == load(str(make_folder(seed=4, kind="gpt2")), "slm").chat_fingerprint
    (folder / "chat_template.jinja").write_text("w3 {{ messages[0].content }}")
    assert load(str(folder), "slm").chat_fingerprint not in ("", plain)
    for unknown in (
        "{{ raise_exception('no') }}",
        "{{ strftime_now('%d') }} {{ messages[0].content }}",
    ):
        (folder / "chat_template.jinja").write_text(unknown)
        assert load(str(folder), "slm").chat_fingerprint == ""
