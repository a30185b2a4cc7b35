"""Evaluate a model without and with its adapter as a run does. Arguments: model, adapter, examples, how many."""

import json
import resource
import sys
import time
from pathlib import Path

from peft import PeftModel

from cefr_batch.data import prompt_format
from cefr_batch.data.encoding import encode
from cefr_batch.data.examples import read_examples
from cefr_batch.evaluation.losses import evaluate
from cefr_batch.models.loading import load_for_evaluation, load_tokenizer

model_path, adapter, file, number = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
tokenizer = load_tokenizer(model_path)
examples = encode(tokenizer, prompt_format("alpaca", model_path), read_examples(file)[:number], 512)
model = PeftModel.from_pretrained(load_for_evaluation(model_path), adapter).eval()
with model.disable_adapter():
    baseline = evaluate(model, examples, pad_id=tokenizer.pad_token_id, end_id=tokenizer.eos_token_id, batch_size=8)
model.merge_adapter()
tuned = evaluate(model, examples, pad_id=tokenizer.pad_token_id, end_id=tokenizer.eos_token_id, batch_size=8)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(
    json.dumps(
        {
            "seconds": time.monotonic() - started,
            "peak_mb": (peak - before) / 1024,
            "losses": [baseline.losses.full.loss, tuned.losses.full.loss],
        }
    )
)
