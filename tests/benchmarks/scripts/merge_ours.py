"""Merge as a run does. Arguments: model folder, adapter folder, target folder."""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer  # noqa: F401

from cefr_batch.run.merge import merge

model, adapter, target = map(Path, sys.argv[1:])
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
merge(model, adapter, AutoTokenizer.from_pretrained(model), torch.bfloat16, target, target.with_name("tmp-merge"))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.monotonic() - started, "peak_mb": (peak - before) / 1024}))
