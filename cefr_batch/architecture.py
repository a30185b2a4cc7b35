"""A model's ``config.json`` → how many parameters it has, and which shapes a LoRA adapter of it has. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Decoder layers like Llama's: seven linear modules, RMSNorm, SwiGLU. Qwen2 adds three biases, which weigh nothing.
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Architecture:
    """The sizes of a Llama-like model (``transformers`` ``LlamaConfig``; Touvron et al. 2023, section 2.2)."""

    hidden: int
    intermediate: int
    layers: int
    query: int  # width of all query heads together
    key_value: int  # width of all key heads together, and of all value heads
    heads: int
    vocabulary: int
    tied: bool  # one matrix is both embedding and output

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Architecture | None:
        """From a ``config.json``; None for a model that is not Llama-like, of which nothing is known here."""
        if config.get("model_type") not in LLAMA_LIKE:
            return None
        heads = int(config["num_attention_heads"])
        head = int(config.get("head_dim") or config["hidden_size"] // heads)
        return cls(
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            query=heads * head,
            key_value=int(config.get("num_key_value_heads") or heads) * head,
            heads=heads,
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear modules of a layer: (inputs, outputs) by name."""
        return {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key_value),
            "v_proj": (self.hidden, self.key_value),
            "o_proj": (self.query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """The weights of all layers' linear modules: what 4-bit loading quantizes."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def other_parameters(self) -> int:
        """The embedding, the output matrix where it is another one, two norms a layer and one at the end."""
        matrices = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return matrices + (2 * self.layers + 1) * self.hidden

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.other_parameters

    def adapted(self, modules: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Those of ``linears`` that have a LoRA adapter."""
        return {name: shape for name, shape in self.linears.items() if name in set(modules)}

    def lora_parameters(self, rank: int, modules: Iterable[str]) -> int:
        """``A`` has rank x inputs, ``B`` outputs x rank (Hu et al. 2021, arXiv:2106.09685, section 4.1)."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.adapted(modules).values())
