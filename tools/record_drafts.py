"""python -m tools.record_drafts: writes models/drafts.jsonl, what a device of the bundled pair sent
for some questions.
"""

import asyncio
import json
from dataclasses import dataclass, field

from hedge.common.ids import ADAPTIVE, id_codec
from hedge.common.loading import load
from hedge.common.model import BUNDLED, LanguageModel, bundled_folder
from hedge.common.sampling import Warp
from hedge.common.torch_model import use_threads
from hedge.edge_client.config import GateConfig, SamplingParams, VerificationConfig
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation.local import LocalLink, LocalStream
from hedge.evaluation.questions import draw_held_out
from hedge.v1 import hedge_pb2 as pb

QUESTIONS = 48
SEED = 21
# The gate of `hedge` at temperature 0, stop and wait: what is sent does not depend on time.
CONFIG = GenerationConfig(
    "hedge",
    SamplingParams(Warp(0.0), max_new_tokens=64),
    GateConfig("threshold", "expected_perturbation", 0.15),
    VerificationConfig("coupled", exact=True),
)


@dataclass
class Recorder(LocalLink):
    """A link that keeps the ids of every Draft."""

    lm: LanguageModel
    drafts: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.lm)
        self.info.id_primer = ""

    async def open(self, request: pb.Open) -> LocalStream:
        request.id_codecs[:] = [ADAPTIVE]
        stream = await super().open(request)
        coder = id_codec(ADAPTIVE, self.lm.vocab_size)
        send = stream.send

        async def kept(draft: pb.Draft) -> None:
            self.drafts.append(
                coder.decode(list(stream.session.history), draft.ids, self.lm.context)
            )
            await send(draft)

        stream.send = kept  # type: ignore[method-assign]
        return stream


def main() -> None:
    use_threads(1)
    slm = load(BUNDLED, "slm")
    llm = load(BUNDLED, "llm")
    with (bundled_folder() / "drafts.jsonl").open("w") as file:
        for question in draw_held_out(QUESTIONS, seed=SEED):
            prompt = slm.encode_chat([{"role": "user", "content": question.text}])
            link = Recorder(llm)

            async def answer(prompt: list[int] = prompt, link: Recorder = link) -> None:
                async for _ in Session(slm, prompt, CONFIG, link).tokens():
                    pass

            asyncio.run(answer())
            file.write(
                json.dumps({"prompt": prompt, "drafts": link.drafts}, separators=(",", ":")) + "\n"
            )


if __name__ == "__main__":
    main()
