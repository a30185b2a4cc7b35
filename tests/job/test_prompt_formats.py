"""Must show: a job by either prompt format; what it publishes answers other programs as it answered in the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.job_runs import SETTINGS, work_folder
from support.prompts import CHATML, make_chat_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from cefr_batch.config.load import load_spec
from cefr_batch.evaluation.generation import generate_from
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import run_stage
from cefr_batch.records import layout
from cefr_batch.records.stages import GenerateResult, StageRecord, TunedResult

STAGES = ("data", "baseline", "train", "tuned", "generate", "merge")


@pytest.mark.slow
@pytest.mark.parametrize("prompt", ["alpaca", "chat"])
def test_a_job_of_this_format(prompt: str, tiny_model: Path, tmp_path: Path) -> None:
    base = make_chat_model(tiny_model, tmp_path / "base", "{{ bos_token }}" + CHATML, around="<bos> $A")
    settings = [f"model.name={base}", f"model.prompt={prompt}", *SETTINGS, "training.max_length=1024"]
    context = StageContext(work_folder(tmp_path / "run", load_spec("A2", overrides=settings)))
    for stage in STAGES:
        run_stage(context, stage)
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = context.result("generate", StageRecord[GenerateResult]).texts
    assert texts
    merged = context.work.path(layout.MERGED)
    for example in texts.examples:
        asked = context.evaluated[example.index]
        for folder in (layout.MERGED, layout.ADAPTER):
            ids = asked_by_others(context.work.path(folder), asked.instruction)
            begin = "" if prompt == "chat" else "<bos>"
            assert tokenizer.decode(ids) == begin + context.prompts.prompt(asked)
        assert written_by_others(merged, ids) == generate_from(merged, context.prompts, asked, 8, None).text

    scores = context.result("tuned", StageRecord[TunedResult]).examples
    end = "<|im_end|>" if prompt == "chat" else "<eos>"
    responses = [tokenizer(e.output + end, add_special_tokens=False).input_ids for e in context.evaluated]
    assert [score.tokens.response for score in scores] == [len(ids) for ids in responses]


def asked_by_others(folder: Path, instruction: str) -> Any:
    """The prompt's tokens, by the tokenizer and the chat template of the folder."""
    messages = [{"role": "user", "content": instruction}]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


def written_by_others(folder: Path, ids: list[int]) -> str:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    output = model.generate(torch.tensor([ids]), max_new_tokens=8)[0, len(ids) :]
    return str(AutoTokenizer.from_pretrained(folder).decode(output, skip_special_tokens=True))
