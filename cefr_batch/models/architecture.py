"""A model's ``config.json`` → how many parameters it has, and which shapes a LoRA adapter of it has. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Family:
    """What models of one type have beside or in place of Llama's layer, and what transformers takes for settings that their
    config.json leaves out."""

    tied: bool = False
    head: int | None = None  # width of a head; None: the hidden width, shared by the query heads
    fused: bool = False  # queries, keys and values are one module, and so are gate and up
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")  # of a layer, each as wide as it
    head_norms: tuple[str, ...] = ()  # of a layer's queries and keys, each as wide as a head


_OF_HEADS = ("self_attn.q_norm", "self_attn.k_norm")
_OF_GEMMA = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
# By model_type. Qwen2 has three biases besides, which weigh nothing.
_FAMILIES = {
    "llama": _Family(),
    "mistral": _Family(),
    "qwen2": _Family(),
    "qwen3": _Family(head=128, head_norms=_OF_HEADS),
    "smollm3": _Family(tied=True),
    "phi3": _Family(fused=True),
    "gemma": _Family(tied=True, head=256),
    "gemma2": _Family(tied=True, head=256, norms=_OF_GEMMA),
    "gemma3_text": _Family(tied=True, head=256, norms=_OF_GEMMA, head_norms=_OF_HEADS),
}
FAMILIES = tuple(_FAMILIES)
_ATTENTION = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj")  # the other linear modules are of the MLP


@dataclass(frozen=True)
class Architecture:
    """The sizes of a model with decoder layers like Llama's: attention, RMSNorm and a gated MLP (``transformers``
    ``LlamaConfig``; Touvron et al. 2023, section 2.2)."""

    hidden: int
    intermediate: int
    layers: int
    query: int  # width of all query heads together
    key_value: int  # width of all key heads together, and of all value heads
    heads: int
    vocabulary: int
    tied: bool  # one matrix is both embedding and output
    kind: str = "llama"  # one of ``FAMILIES``

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Architecture | None:
        """From a ``config.json``; None for a model of another type than ``FAMILIES``, of which nothing is known here."""
        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in _FAMILIES:
            return None
        family, heads = _FAMILIES[kind], int(config["num_attention_heads"])
        head = int(config.get("head_dim") or family.head or config["hidden_size"] // heads)
        return cls(
            hidden=int(config["hidden_size"]),
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            query=heads * head,
            key_value=int(config.get("num_key_value_heads") or heads) * head,
            heads=heads,
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", family.tied)),
            kind=kind,
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear modules of a layer: (inputs, outputs) by name."""
        attended, mlp = (self.query, self.hidden), (self.intermediate, self.hidden)
        if _FAMILIES[self.kind].fused:
            return {
                "qkv_proj": (self.hidden, self.query + 2 * self.key_value),
                "o_proj": attended,
                "gate_up_proj": (self.hidden, 2 * self.intermediate),
                "down_proj": mlp,
            }
        return {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key_value),
            "v_proj": (self.hidden, self.key_value),
            "o_proj": attended,
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": mlp,
        }

    @property
    def norms(self) -> dict[str, int]:
        """The norms of a layer: their width by name."""
        family = _FAMILIES[self.kind]
        return dict.fromkeys(family.norms, self.hidden) | dict.fromkeys(family.head_norms, self.query // self.heads)

    @property
    def normed(self) -> int:
        """The width of all that a layer's norms are given, together."""
        family = _FAMILIES[self.kind]
        return len(family.norms) * self.hidden + (self.query + self.key_value if family.head_norms else 0)

    @property
    def linear_parameters(self) -> int:
        """The weights of all layers' linear modules: what 4-bit loading quantizes."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def other_parameters(self) -> int:
        """The embedding, the output matrix where it is another one, the layers' norms and one at the end."""
        matrices = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return matrices + self.layers * sum(self.norms.values()) + self.hidden

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.linear_parameters + self.other_parameters

    @property
    def weights(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the weights that every model of these sizes has, by their names in a checkpoint without the
        leading ``model.``; biases, which some have, are not among them."""
        of_layer: dict[str, tuple[int, ...]] = {
            f"{'self_attn' if name in _ATTENTION else 'mlp'}.{name}.weight": (outputs, inputs)
            for name, (inputs, outputs) in self.linears.items()
        }
        of_layer |= {f"{name}.weight": (width,) for name, width in self.norms.items()}
        matrix = (self.vocabulary, self.hidden)
        ends = {"embed_tokens.weight": matrix, "norm.weight": (self.hidden,)}
        layers = {f"layers.{i}.{name}": shape for i in range(self.layers) for name, shape in of_layer.items()}
        return {**ends, **layers, **({} if self.tied else {"lm_head.weight": matrix})}

    def adapted(self, modules: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Those of ``linears`` that have a LoRA adapter."""
        return {name: shape for name, shape in self.linears.items() if name in set(modules)}

    def lora_parameters(self, rank: int, modules: Iterable[str]) -> int:
        """``A`` has rank x inputs, ``B`` outputs x rank (Hu et al. 2021, arXiv:2106.09685, section 4.1)."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.adapted(modules).values())
