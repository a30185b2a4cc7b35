"""The stages of a run one after the other in one process, nothing stored. Arguments: a folder, settings."""

import sys
from pathlib import Path

from cefr_batch.config.load import load_spec
from cefr_batch.data import load_dataset
from cefr_batch.job.context import StageContext
from cefr_batch.job.stages import STAGES, run_stage
from cefr_batch.records import layout
from cefr_batch.records.document import write_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.timestamps import now

spec = load_spec("B1", overrides=sys.argv[2:])
work, dataset = WorkDir(Path(sys.argv[1])), load_dataset(spec.data, spec.level)
for folder in (work.tmp, work.dataset):
    folder.mkdir(parents=True)
(work.dataset / layout.TRAIN_FILE).write_bytes(dataset.train_bytes)
(work.dataset / layout.EVAL_FILE).write_bytes(dataset.eval_bytes)
settings = spec.model_dump(mode="json")
record = SpecRecord(run=work.root.name, dataset=dataset.sha256, spec=settings, submitted_at=now())
write_file(work.path(layout.SPEC), record)
context = StageContext(work)
for stage in STAGES:
    run_stage(context, stage.name)
