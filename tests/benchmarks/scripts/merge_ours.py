"""Merge as a run does. Arguments: model folder, adapter folder, target folder."""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer  # noqa: F401

from cefr_batch.data import prompt_format
from cefr_batch.models.merge import merge

model, adapter, target = map(Path, sys.argv[1:])
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
tokenizer, prompts = AutoTokenizer.from_pretrained(model), prompt_format("alpaca", model)
merge(model, adapter, tokenizer, prompts, torch.bfloat16, target, target.with_name("tmp-merge"))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.monotonic() - started, "peak_mb": (peak - before) / 1024}))
