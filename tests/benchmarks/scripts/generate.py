"""Sentences for B1 prompts. Arguments: batched or one-by-one, model, examples, how many, every which, tokens at most."""

import json
import sys
import time
from pathlib import Path

import torch

from cefr_batch.data import prompt_format
from cefr_batch.data.examples import read_examples
from cefr_batch.evaluation.generation import generate
from cefr_batch.models.loading import load_for_evaluation, load_tokenizer

how, path = sys.argv[1], Path(sys.argv[2])
number, every, most = map(int, sys.argv[4:])
model, tokenizer = load_for_evaluation(path), load_tokenizer(path)
prompts, examples = prompt_format("alpaca", path), read_examples(Path(sys.argv[3]))[:number:every]
started = time.monotonic()
if how == "batched":
    texts = generate(model, tokenizer, prompts, examples, max_new_tokens=most, batch_size=32)
else:
    texts = []
    for example in examples:
        ids = tokenizer(prompts.prompt(example), return_tensors="pt")
        with torch.no_grad():
            out = model.generate(
                **ids,
                max_new_tokens=most,
                do_sample=False,
                repetition_penalty=1.0,
                pad_token_id=tokenizer.pad_token_id,
            )
        texts.append(tokenizer.decode(out[0, ids.input_ids.shape[1] :], skip_special_tokens=True))
print(json.dumps({"seconds": time.monotonic() - started, "texts": texts}))
