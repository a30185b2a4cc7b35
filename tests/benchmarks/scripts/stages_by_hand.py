"""The stages of a run one after the other in one process, nothing stored. Arguments: a folder, settings."""

import sys
from pathlib import Path

from cefr_batch import layout
from cefr_batch.data import load_dataset
from cefr_batch.files import write_json
from cefr_batch.layout import WorkDir
from cefr_batch.run.stages import FUNCTIONS, Context, run_stage
from cefr_batch.spec import load_spec

spec = load_spec("B1", overrides=sys.argv[2:])
work, dataset = WorkDir(Path(sys.argv[1])), load_dataset(spec.data, spec.level)
for folder in (work.tmp, work.dataset):
    folder.mkdir(parents=True)
(work.dataset / layout.TRAIN_FILE).write_bytes(dataset.train_bytes)
(work.dataset / layout.EVAL_FILE).write_bytes(dataset.eval_bytes)
write_json(work.path(layout.SPEC), {"spec": spec.model_dump(mode="json")})
job = Context(work)
for stage in FUNCTIONS:
    run_stage(job, stage)
