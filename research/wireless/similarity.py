"""How near two texts are in meaning: the cosine of their sentence embeddings."""

import torch
from transformers import AutoModel

from hedge.common.torch_model import weights_fingerprint
from research.wireless.masked import load_encoder


class Embedding:
    """The mean of the last hidden states, as sentence-transformers' MiniLM and mpnet pool."""

    def __init__(self, folder: str) -> None:
        self._tokenizer, self._model = load_encoder(AutoModel, folder, "an embedding model")
        self._limit = min(
            int(self._tokenizer.model_max_length), int(self._model.config.max_position_embeddings)
        )
        self.fingerprint = weights_fingerprint(self._model)
        self._known: tuple[str, torch.Tensor] = "", torch.empty(0)

    @torch.inference_mode()
    def _embed(self, text: str) -> torch.Tensor:
        inputs = self._tokenizer(text, truncation=True, max_length=self._limit, return_tensors="pt")
        hidden: torch.Tensor = self._model(**inputs).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden.mean(dim=0), dim=0)

    def similarity(self, found: str, wanted: str) -> float:
        """Cosine in -1..1; 1 of equal texts, 0 where one of the two is empty."""
        if found == wanted:
            return 1.0
        if not found.strip() or not wanted.strip():
            return 0.0
        if self._known[0] != wanted:
            self._known = wanted, self._embed(wanted)
        return float(self._embed(found) @ self._known[1])
