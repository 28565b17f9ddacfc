"""A GGUF model says what the same weights say in torch, in its words and in its numbers, and rolls
back.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hedge.common import llama_model
from hedge.common.errors import BadInput, Incompatible
from hedge.common.grammar import Grammar, convert_schema
from hedge.common.llama_model import LlamaModel
from hedge.common.loading import load
from hedge.common.model import BUNDLED, LanguageModel, bundled_folder
from tests.conftest import MakeFolder
from tests.llama.conftest import ONE
from tools.to_gguf import convert, metadata_of, write_gguf

ROOT = Path(__file__).parents[2]
QUESTION = [{"role": "user", "content": "What is 47 + 38?"}]
IDS = [1, 3, 90, 200, 41, 7, 4, 1000, 50, 60, 70, 80, 300, 3000, 4000, 4095]
# Keys and values are float16 in llama.cpp; logits here are of order 20.
TOLERANCE = 0.05


@pytest.fixture(scope="module")
def plain() -> LanguageModel:
    return load(BUNDLED, "slm", ONE)


@pytest.mark.parametrize("side", ["slm", "llm"])
def test_logits_are_those_of_the_same_weights_in_torch(side: str, files: dict[str, Path]) -> None:
    ours = load(str(files[side]), side, ONE)
    theirs = load(BUNDLED, side, ONE)
    found = ours.kv_cache().forward(IDS)
    expected = theirs.kv_cache().forward(IDS)
    assert found.shape == expected.shape == (len(IDS), 4096)
    assert np.abs(found - expected).max() < TOLERANCE


def test_both_formats_of_a_model_have_one_tokenizer(
    slm: LanguageModel, plain: LanguageModel
) -> None:
    assert (slm.tokenizer_fingerprint, slm.vocab_size) == (
        plain.tokenizer_fingerprint,
        plain.vocab_size,
    )
    assert (slm.end_ids, slm.begin_id, slm.context) == (
        plain.end_ids,
        plain.begin_id,
        plain.context,
    )
    assert slm.primer == plain.primer != ()
    assert slm.fingerprint != plain.fingerprint
    assert slm.encode_chat(QUESTION) == plain.encode_chat(QUESTION)


def test_grammars_allow_the_same_ids_in_both_runtimes(
    slm: LanguageModel, plain: LanguageModel
) -> None:
    schema = {
        "type": "object",
        "properties": {"né": {"type": "string", "maxLength": 9}, "n": {"type": "integer"}},
    }
    both = [
        Grammar(convert_schema({**schema, "required": ["né", "n"]}), lm, lm.end_ids)
        for lm in (slm, plain)
    ]
    for seed in range(10):
        rng = np.random.default_rng(seed)
        said = list[int]()
        while len(said) < 60 and not (said and said[-1] in slm.end_ids):
            ours, theirs = (grammar.allowed(said) for grammar in both)
            assert (ours == theirs).all()
            assert both[0].forced(said) == both[1].forced(said)
            said.append(int(rng.choice(np.flatnonzero(ours))))


TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(" \n\t\r'0aé中👩‍👧")),
    max_size=60,
)


@settings(max_examples=300)
@given(text=TEXTS)
@example(text="<|end|>hi<|user|> <|assistant|><|pad|>")
@example(text="  \n\n   \t\t  a \n \n\n b\r\n\r\n  c   ")
@example(text="👩‍👩‍👧‍👦 🏳️‍🌈 漢字かな交じり文。한국어 中文 e\u0301")
def test_ids_are_those_of_the_hugging_face_tokenizer(
    text: str, slm: LanguageModel, plain: LanguageModel
) -> None:
    ids = plain.encode_text(text)
    assert slm.encode_text(text) == ids
    assert slm.decode(ids) == plain.decode(ids) == text
    said = [{"role": "user", "content": text}]
    assert slm.encode_chat(said) == plain.encode_chat(said)


def test_ids_of_whole_files_are_those_of_the_hugging_face_tokenizer(
    slm: LanguageModel, plain: LanguageModel
) -> None:
    for path in sorted((ROOT / "common").glob("*.py")):
        text = path.read_text("utf-8")
        assert slm.encode_text(text) == plain.encode_text(text)


def test_part_of_a_character_is_marked(slm: LanguageModel, plain: LanguageModel) -> None:
    ids = plain.encode_text("中")
    assert len(ids) > 1
    assert slm.decode(ids[:1]).endswith("\ufffd")


def test_rollback_equals_a_fresh_forward(slm: LanguageModel) -> None:
    cache = slm.kv_cache()
    cache.forward([*IDS[:4], 6, 6, 6])
    cache.rollback(4)
    rolled = cache.forward(IDS[4:])
    fresh = slm.kv_cache().forward(IDS)
    assert np.abs(rolled - fresh[4:]).max() < TOLERANCE
    cache.rollback(0)
    assert np.abs(cache.forward(IDS) - fresh).max() < TOLERANCE
    with pytest.raises(ValueError, match="roll"):
        cache.rollback(len(IDS) + 1)


def test_memory_that_does_not_drop_a_part_is_refused_at_load(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_model.llama_cpp(), "llama_memory_seq_rm", lambda *_: False)
    with pytest.raises(
        Incompatible, match=r"cannot be rolled back: llama\.cpp does not drop a part of it"
    ):
        load(str(files["slm"]), "slm", ONE)


def test_only_the_rows_asked_for_come_back(slm: LanguageModel) -> None:
    whole = slm.kv_cache().forward(IDS)
    assert np.abs(slm.kv_cache().forward(IDS, 2) - whole[-2:]).max() < TOLERANCE
    assert slm.kv_cache().forward(IDS, 0).shape == (0, 4096)
    assert slm.kv_cache().forward([]).shape == (0, 4096)


def test_a_cache_that_outgrows_its_room_keeps_what_it_holds(
    slm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = [int(token) for token in np.random.default_rng(1).integers(5, 4096, 700)]

    def logits() -> np.ndarray:
        cache = slm.kv_cache()
        return np.concatenate([cache.forward(text[at : at + 70], 3) for at in range(0, 700, 70)])

    wide = logits()
    monkeypatch.setattr(slm, "_idle", SimpleQueue())
    monkeypatch.setattr(llama_model, "ROOM", 128)
    assert (logits() == wide).all()


def test_a_long_prompt_goes_through_in_chunks(slm: LanguageModel, plain: LanguageModel) -> None:
    text = [int(token) for token in np.random.default_rng(2).integers(5, 4096, 600)]
    found = slm.kv_cache().forward(text, 300)
    expected = plain.kv_cache().forward(text, 300)
    assert np.abs(found - expected).max() < 2 * TOLERANCE


def test_a_decoder_that_is_used_again_has_forgotten(slm: LanguageModel) -> None:
    fresh = slm.kv_cache().forward(IDS)
    first = slm.kv_cache()
    first.forward([9] * 50)
    del first
    assert (slm.kv_cache().forward(IDS) == fresh).all()


def test_threads_that_take_and_drop_caches_do_not_meet(slm: LanguageModel) -> None:
    texts = [[5 + number] * 20 for number in range(8)]
    expected = [slm.kv_cache().forward(text, 1) for text in texts]

    def alike(number: int) -> bool:
        return all(
            (slm.kv_cache().forward(texts[number], 1) == expected[number]).all() for _ in range(20)
        )

    with ThreadPoolExecutor(len(texts)) as threads:
        assert all(threads.map(alike, range(len(texts))))


def test_caches_side_by_side_do_not_meet(slm: LanguageModel) -> None:
    alone = slm.kv_cache()
    expected = np.concatenate([alone.forward([token]) for token in IDS])
    one = slm.kv_cache()
    other = slm.kv_cache()
    found = []
    for token in IDS:
        found.append(one.forward([token]))
        other.forward([token + 1 if token < 4000 else 5])
    assert (np.concatenate(found) == expected).all()


def test_a_context_bounds_what_is_fed(files: dict[str, Path]) -> None:
    lm = load(str(files["slm"]), "slm", llama_model.ModelOptions(threads=1, context=20))
    assert (lm.context, lm.identity.trained_context) == (20, 1024)
    cache = lm.kv_cache()
    cache.forward([5] * 20)
    with pytest.raises(ValueError, match="21 tokens in a context of 20"):
        cache.forward([5])
    with pytest.raises(BadInput, match="context 2000 is more than the 1024"):
        load(str(files["slm"]), "slm", llama_model.ModelOptions(context=2000))


def test_a_context_larger_than_memory_is_named(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedge.common.llama_model.token_bytes", lambda _: 1 << 14)
    monkeypatch.setattr("hedge.common.model.SMALL_CONTEXT", 16)
    monkeypatch.setattr("hedge.common.model.free_memory", lambda: 2 * 512 << 14)
    assert load(str(files["slm"]), "slm", ONE).context == 512
    with pytest.raises(BadInput, match=r"context 1000 of .* GB of keys and values"):
        load(str(files["slm"]), "slm", llama_model.ModelOptions(context=1000))


def test_gpu_layers_without_a_gpu_say_so(files: dict[str, Path]) -> None:
    if llama_model.llama_cpp().llama_supports_gpu_offload():
        pytest.skip("this llama.cpp has a GPU backend")
    with pytest.raises(BadInput, match="built without a GPU"):
        load(str(files["slm"]), "slm", llama_model.ModelOptions(gpu_layers=9))


def test_weights_cut_short_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    data = files["slm"].read_bytes()
    for share in (0.5, 0.999):
        path = tmp_path / "cut.gguf"
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(BadInput, match=r"cut short|not within"):
            load(str(path), "slm")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general__architecture": "nonesuch"}, "nonesuch"),
        ({"tokenizer__ggml__pre": "nonesuch"}, "nonesuch"),
        ({"tokenizer__chat_template": "{% for %}"}, "not a Jinja template"),
        ({"llama__block_count": 7}, "cannot load the slm"),
    ],
)
def test_what_llama_cpp_does_not_run_is_one_line(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    metadata = metadata_of(bundled_folder() / "slm")
    if "general__architecture" in changes:
        path = write_gguf(tmp_path / "odd.gguf", metadata | {"general.architecture": "nonesuch"})
    else:
        path = convert(bundled_folder() / "slm", tmp_path / "odd.gguf", **changes)
    with pytest.raises(BadInput, match=words):
        load(str(path), "slm")


def test_a_sliding_window_is_refused(tmp_path: Path) -> None:
    metadata = metadata_of(bundled_folder() / "slm")
    renamed = {key.replace("llama.", "cohere2."): value for key, value in metadata.items()}
    rng = np.random.default_rng(1)
    width = 160
    wide = 448
    words = 4096

    def random(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.02, shape).astype(np.float32)

    tensors = {"token_embd.weight": random(words, width), "output_norm.weight": random(width)}
    for layer in range(2):
        tensors |= {
            f"blk.{layer}.attn_norm.weight": random(width),
            f"blk.{layer}.attn_q.weight": random(width, width),
            f"blk.{layer}.attn_k.weight": random(width, width),
            f"blk.{layer}.attn_v.weight": random(width, width),
            f"blk.{layer}.attn_output.weight": random(width, width),
            f"blk.{layer}.ffn_gate.weight": random(wide, width),
            f"blk.{layer}.ffn_up.weight": random(wide, width),
            f"blk.{layer}.ffn_down.weight": random(width, wide),
        }
    more = {
        "general.architecture": "cohere2",
        "cohere2.attention.sliding_window": 8,
        "cohere2.attention.layer_norm_epsilon": 1e-5,
        "cohere2.logit_scale": 1.0,
    }
    path = write_gguf(tmp_path / "window.gguf", renamed | more, tensors)
    with pytest.raises(Incompatible, match="cannot be rolled back: it holds a sliding window of 8"):
        load(str(path), "slm")


def test_the_seam_has_both_runtimes_behind_it(
    slm: LanguageModel, plain: LanguageModel, make_folder: MakeFolder
) -> None:
    assert isinstance(slm, LlamaModel)
    assert "llama.cpp" in slm.describe()
    assert "torch" in plain.describe()
