"""python -m tools.to_gguf FOLDER FILE: a Llama or Qwen2 folder as a GGUF file, in float32.

For the bundled pair and tests; for other models llama.cpp has its own converter and its
quantisation.
"""

import json
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ALIGNMENT = 32
NORMAL = 1
CONTROL = 3


def write_gguf(
    path: Path, metadata: Mapping[str, object], tensors: Mapping[str, np.ndarray] | None = None
) -> Path:
    """float32 and float16 tensors; whole numbers become uint32, numbers float32."""
    head = bytearray()
    body = bytearray()
    for key, value in metadata.items():
        head += _text(key) + _value(value)
    for name, tensor in (tensors or {}).items():
        body += b"\0" * (-len(body) % ALIGNMENT)
        head += (
            _text(name)
            + struct.pack("<I", tensor.ndim)
            + struct.pack(f"<{tensor.ndim}Q", *reversed(tensor.shape))
        )
        head += struct.pack("<IQ", {"float32": 0, "float16": 1}[str(tensor.dtype)], len(body))
        body += np.ascontiguousarray(tensor).tobytes()
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors or {}), len(metadata))) + head
    path.write_bytes(bytes(head) + b"\0" * (-len(head) % ALIGNMENT) + bytes(body))
    return path


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: object) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case [int(), *_]:
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
        case list():
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    raise TypeError(value)


def metadata_of(folder: Path, pre: str = "smollm", padding: int = 0) -> dict[str, Any]:
    """The metadata of a folder's model, with `padding` rows more than its tokenizer has."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words: dict[str, int] = dict(tokenizer["model"]["vocab"])
    special = {entry["content"]: entry["id"] for entry in tokenizer["added_tokens"]}
    named = {number: word for word, number in (words | special).items()}
    tokens = [named.get(i, f"[PAD{i}]") for i in range(max(named) + 1 + padding)]
    kind = config["model_type"]
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    template = folder / "chat_template.jinja"
    return {
        "general.architecture": kind,
        "general.name": folder.name,
        f"{kind}.block_count": config["num_hidden_layers"],
        f"{kind}.context_length": config["max_position_embeddings"],
        f"{kind}.embedding_length": config["hidden_size"],
        f"{kind}.feed_forward_length": config["intermediate_size"],
        f"{kind}.attention.head_count": heads,
        f"{kind}.attention.head_count_kv": config["num_key_value_heads"],
        f"{kind}.attention.key_length": size,
        f"{kind}.attention.value_length": size,
        f"{kind}.rope.dimension_count": size,
        f"{kind}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{kind}.rope.freq_base": float(config["rope_parameters"]["rope_theta"]),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if token in special else NORMAL for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.add_bos_token": False,
    } | ({"tokenizer.chat_template": template.read_text()} if template.exists() else {})


_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def convert(folder: Path, path: Path, *, padding: int = 0, **more: object) -> Path:
    """Writes a folder's model in float32; `more` changes its metadata, with __ for dots."""
    import torch
    from safetensors.torch import load_file

    metadata = metadata_of(folder, padding=padding) | {
        key.replace("__", "."): value for key, value in more.items()
    }
    kind = metadata["general.architecture"]
    heads = {
        "attn_q": metadata[f"{kind}.attention.head_count"],
        "attn_k": metadata[f"{kind}.attention.head_count_kv"],
    }
    tensors = {}
    for name, held in load_file(folder / "model.safetensors").items():
        tensor = held.to(torch.float32).numpy()
        stem, _, last = name.rpartition(".")
        number = ""
        if stem.startswith("model.layers."):
            number, _, stem = stem.removeprefix("model.layers.").partition(".")
        short = _NAMES[stem]
        if kind == "llama" and short in heads:
            # llama.cpp turns neighbouring pairs, transformers halves.
            count = heads[short]
            tensor = (
                tensor.reshape(count, 2, tensor.shape[0] // count // 2, -1)
                .swapaxes(1, 2)
                .reshape(tensor.shape)
            )
        if padding and short in ("token_embd", "output"):
            tensor = np.concatenate([tensor, np.zeros((padding, tensor.shape[1]), np.float32)])
        tensors[f"blk.{number}.{short}.{last}" if number else f"{short}.{last}"] = tensor
    return write_gguf(path, metadata, tensors)


if __name__ == "__main__":
    print(convert(Path(sys.argv[1]), Path(sys.argv[2])))
