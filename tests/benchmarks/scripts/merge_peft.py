"""Merge with PEFT. Arguments: model folder, adapter folder, target folder."""

import json
import resource
import sys
import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model, adapter, target = sys.argv[1:]
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(target)
AutoTokenizer.from_pretrained(model).save_pretrained(target)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.monotonic() - started, "peak_mb": (peak - before) / 1024}))
