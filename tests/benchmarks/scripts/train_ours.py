"""The trainer of a run. Arguments: model folder, tokenized examples, settings (JSON files), a folder."""

import json
import shutil
import sys
import time
from itertools import pairwise
from pathlib import Path

from cefr_batch.config.load import load_spec
from cefr_batch.data import load_dataset
from cefr_batch.records.layout import WorkDir
from cefr_batch.training.progress import ProgressFile
from cefr_batch.training.task import TrainingTask
from cefr_batch.training.trainer import train

model, _, settings_file, folder = map(Path, sys.argv[1:])
trainer = json.loads(settings_file.read_text())["trainer"]
data = settings_file.with_name("train.json")  # the examples of which the others get the tokens
spec = load_spec(
    "B1",
    overrides=[
        "backend=peft",
        f"model.name={model}",
        f"data.train={data}",
        f"data.eval={data}",
        f"training.max_steps={trainer['max_steps']}",
        f"training.batch_size={trainer['per_device_train_batch_size']}",
        "training.gradient_accumulation_steps=1",
        "training.logging_steps=1",
    ],
)
shutil.rmtree(folder, ignore_errors=True)
work = WorkDir(folder)
work.tmp.mkdir(parents=True)
ends: dict[int, float] = {}


def note(_: ProgressFile, *, step: int, **progress: object) -> None:
    ends.setdefault(step, time.monotonic())


ProgressFile.update = note  # type: ignore[method-assign, assignment]
examples = load_dataset(spec.data, spec.level).train
result = train(TrainingTask(spec, model, examples, examples[:1], work), None)
times = [ends[step] for step in sorted(ends)]
seconds = [end - start for start, end in pairwise(times)]  # from the first progress on: step 0
print(json.dumps({"seconds": seconds, "losses": [entry.loss for entry in result.log if entry.loss is not None]}))
