"""Merge with Unsloth. Arguments: model folder, adapter folder, target folder."""

from unsloth import FastLanguageModel  # before all others  # isort: skip

import json
import resource
import sys
import time

import torch

_, adapter, target = sys.argv[1:]
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name=adapter, max_seq_length=512, dtype=torch.bfloat16, load_in_4bit=False, local_files_only=True
)
model.save_pretrained_merged(target, tokenizer, save_method="merged_16bit")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.monotonic() - started, "peak_mb": (peak - before) / 1024}))
