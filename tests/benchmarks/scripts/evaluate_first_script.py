"""Evaluate as the team's first script did: load the model, then the tuned one; batches of 4 in file order, full logits.

Arguments: model, adapter, examples, how many.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from cefr_batch.data import prompt_format
from cefr_batch.data.examples import read_examples

model_path, adapter, file, number = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
tokenizer = AutoTokenizer.from_pretrained(model_path)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
tokenizer.padding_side = "right"
prompts = prompt_format("alpaca", Path(model_path))
texts = [prompts.text(e) for e in read_examples(file)[:number]]


def loss_of(model: torch.nn.Module) -> float:
    total = tokens = 0.0
    for start in range(0, len(texts), 4):
        batch = tokenizer(texts[start : start + 4], return_tensors="pt", padding=True, truncation=True, max_length=512)
        labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
        with torch.no_grad():
            loss = model(**batch, labels=labels).loss
        real = int((labels[:, 1:] != -100).sum())
        total, tokens = total + float(loss) * real, tokens + real
    return total / tokens


def loaded() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16).float().eval()


losses = [loss_of(loaded()), loss_of(PeftModel.from_pretrained(loaded(), adapter).eval())]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.monotonic() - started, "peak_mb": (peak - before) / 1024, "losses": losses}))
