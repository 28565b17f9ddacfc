"""hedge pull and hedge models: fetching models from the hub, and what is here."""

import json
import sys
from collections.abc import Sequence

from hedge.common.command import command_parser, parse

PULL = """  hedge pull hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf
  hedge pull hf:Qwen/Qwen2.5-Coder-0.5B-Instruct          (safetensors, for torch)"""


def pull(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge pull",
        "Fetches models from the Hugging Face hub; one that was cut off goes on.",
        PULL,
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="hf:OWNER/REPO or hf:OWNER/REPO/FILE.gguf"
    )
    args = parse(parser, arguments)
    from hedge.common.hub import PREFIX, fetch, hub_name

    names = [hub_name(name if name.startswith(PREFIX) else PREFIX + name) for name in args.names]
    for name in names:
        assert name
        sys.stdout.write(f"{fetch(name)}\n")
        sys.stdout.flush()


def models(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge models", "The models that are here: name, size, licence.", "  hedge models --json"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per model on stdout")
    args = parse(parser, arguments)
    from dataclasses import asdict

    from hedge.common.hub import CachedModel, list_cached
    from hedge.common.model import BUNDLED, bundled_folder

    size = sum(
        path.stat().st_size
        for side in ("slm", "llm")
        for path in (bundled_folder() / side).glob("*.safetensors")
    )
    models = [CachedModel(BUNDLED, size, "apache-2.0"), *list_cached()]
    if args.json:
        sys.stdout.write("".join(json.dumps(asdict(one)) + "\n" for one in models))
        return
    width = max(len(one.name) for one in models)
    for one in models:
        sys.stdout.write(f"{one.name:<{width}}  {one.bytes / 1e6:>8,.0f} MB  {one.licence}\n")
