"""What a trained model's folder says of how it is asked: tokenizer, chat template, generation settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from cefr_batch.data.chat_template import FILE
from cefr_batch.data.encoding import beginning
from cefr_batch.data.prompts import PromptFormat
from cefr_batch.models.loading import ends_of_text, stop_tokens


def save_prompt_files(base: Path, tokenizer: Any, prompts: PromptFormat, target: Path) -> None:
    """Write what lets other programs ask a model that was trained from ``base`` as it was trained: its tokenizer, with a
    chat template that makes the trained prompt of a user's message, and the tokens at which it has finished.

    Texts are the most probable ones unless somebody asks for sampling: settings for that, which the base model may have,
    were made for another task.
    """
    tokenizer.save_pretrained(target)
    shutil.rmtree(target / "additional_chat_templates", ignore_errors=True)  # the base model's, for tools and documents
    begin = "".join(tokenizer.convert_ids_to_tokens(beginning(tokenizer, prompts)))
    (target / FILE).write_text(prompts.as_template(begin), encoding="utf-8")
    own = ends_of_text(base)
    GenerationConfig(
        bos_token_id=own.bos_token_id,
        eos_token_id=stop_tokens(own, tokenizer, prompts.answer.end),
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    ).save_pretrained(target)
