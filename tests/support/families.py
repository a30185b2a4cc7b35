"""Tiny random models of the architectures that users fine-tune, each with what sets its family apart."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from support.prompts import CHATML, make_chat_tokenizer

# What Mistral writes: white space before an answer and what closes it.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# As SmolLM3's, whose system message names the day and whether to think first.
SMOLLM3 = (
    "{{ '<|im_start|>system\nToday Date: ' + strftime_now('%d %B %Y') + '\nReasoning Mode: ' }}"
    "{{ '/no_think' if enable_thinking is defined and not enable_thinking else '/think' }}{{ '<|im_end|>\n' }}"
) + CHATML
_SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 2048, "initializer_range": 0.3, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """``stands_for``: published models of it; ``classes``: the beginning of the names of transformers' classes;
    ``template``: the chat template, by its name among those that TRL ships; ``tokens``: what it writes besides ChatML's."""

    stands_for: str
    classes: str
    template: str
    tokens: tuple[str, ...] = ()
    sizes: dict[str, Any] = field(default_factory=dict)
    padding: bool = True  # its tokenizer names a padding token

    def make(self, tiny_model: Path, folder: Path) -> Path:
        """A folder with the model, random weights (seeded), and a tokenizer."""
        import torch
        import transformers

        make_chat_tokenizer(tiny_model, folder, chat_template(self.template), around="<bos> $A", tokens=self.tokens)
        if not self.padding:
            path = folder / "tokenizer_config.json"
            named = {key: value for key, value in json.loads(path.read_text()).items() if key != "pad_token"}
            path.write_text(json.dumps(named))
        tokens = len(transformers.AutoTokenizer.from_pretrained(folder))
        torch.manual_seed(0)
        config = getattr(transformers, f"{self.classes}Config")(**{**_SIZES, "vocab_size": tokens, **self.sizes})
        model = getattr(transformers, f"{self.classes.removesuffix('Text')}ForCausalLM")(config)
        model.to(torch.bfloat16).save_pretrained(folder)
        return folder


def chat_template(name: str) -> str:
    """Of a family of models, as TRL ships it."""
    own = {"mistral": MISTRAL, "smollm3": SMOLLM3}
    if name in own:
        return own[name]
    found = find_spec("trl")
    assert found
    assert found.origin
    return (Path(found.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


FAMILIES = {
    "llama": Family(
        "Llama 3.2",
        "Llama",
        "llama3_2",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        {"tie_word_embeddings": True},
    ),
    "mistral": Family("Mistral 7B", "Mistral", "mistral", sizes={"sliding_window": 64}, padding=False),
    "qwen3": Family("Qwen3", "Qwen3", "qwen3", sizes={"head_dim": 16, "tie_word_embeddings": True}),
    "smollm3": Family("SmolLM3", "SmolLM3", "smollm3", sizes={"no_rope_layer_interval": 2}),
    "phi3": Family(
        "Phi-3, Phi-4-mini",
        "Phi3",
        "phi3",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        {"tie_word_embeddings": True, "partial_rotary_factor": 0.5, "sliding_window": 64},
    ),
    "gemma3_text": Family(
        "Gemma 3, 270M and 1B",
        "Gemma3Text",
        "gemma3",
        ("<start_of_turn>", "<end_of_turn>"),
        {
            "head_dim": 16,
            "sliding_window": 64,
            "layer_types": ["sliding_attention", "full_attention"],
            "final_logit_softcapping": 5.0,
        },
    ),
}
