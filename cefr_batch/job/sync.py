"""A job's folder and its copy in the store: what is computed goes there while the job runs, and comes back on resume.

Order is the contract: a folder's files first, then the record that says they are complete.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from shutil import rmtree
from typing import Any

from cefr_batch.errors import Damaged, NotFound
from cefr_batch.job.stages import BY_NAME, STAGES
from cefr_batch.records import layout
from cefr_batch.records.attempt import Attempt
from cefr_batch.records.checkpoint import Checkpoint, CheckpointFile
from cefr_batch.records.document import R, read_file, write_file
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.stages import StageRecord, StoredObject
from cefr_batch.store.base import Store
from cefr_batch.store.manifest import local_path
from cefr_batch.store.transfer import TransferItem, download, upload

log = logging.getLogger(__name__)

_GROWING_BYTES_PER_SECOND = 256_000
_RUNS_AGAIN = ", so the stage runs again unless its results are still on this machine"


@dataclass(frozen=True)
class Sent:
    """A growing file when it was sent: its size in bytes, its time of change, and the time on this machine in seconds."""

    size: int
    changed: int
    at: float

    def differs(self, now: Sent) -> bool:
        """Whether the file has changed since."""
        return (self.size, self.changed) != (now.size, now.changed)

    def is_due(self, now: Sent) -> bool:
        """Whether to send it again: so that a file of any size takes no more than 256 kB/s on average."""
        return now.at - self.at >= now.size / _GROWING_BYTES_PER_SECOND


@dataclass
class GrowingFiles:
    """Files of a run that are stored while they are written. An object cannot be appended to, so a file is sent whole."""

    store: Store
    run: str
    work: WorkDir
    _sent: dict[str, Sent] = field(default_factory=dict)  # by name

    def push(self, names: Iterable[str], *, last: bool = False) -> None:
        """Send those that have changed since they were sent; a large one seldom, and with ``last`` in any case. Blocks on
        the store; idempotent. Raises ``StoreError``."""
        for name in names:
            stat = self.work.path(name).stat()
            sent = self._sent.get(name)
            now = Sent(stat.st_size, stat.st_mtime_ns, time.monotonic())
            if sent is None or (sent.differs(now) and (last or sent.is_due(now))):
                self.store.put_file(layout.run_key(self.run, name), self.work.path(name))
                self._sent[name] = now


@dataclass
class Mirror:
    """A run's folder and its copy in the store. Not thread-safe: one caller at a time. Every method that is not documented
    otherwise may block on the store and raises ``StoreError``; all are idempotent."""

    store: Store
    run: str
    work: WorkDir
    keep_checkpoints: int
    _stored: set[str] = field(default_factory=set)  # stages and checkpoints known to be stored whole

    def __post_init__(self) -> None:
        self._growing = GrowingFiles(self.store, self.run, self.work)

    def key(self, name: str) -> str:
        """The key of an object of the run."""
        return layout.run_key(self.run, name)

    def push(self, *, last: bool = False) -> None:
        """Send what is new: logs and TensorBoard, complete checkpoints, finished stages. ``last``: no other push follows."""
        self._drop_superseded()
        self.push_growing(last=last)
        self._push_checkpoints()
        self._push_stages()

    def push_growing(self, *, last: bool = False) -> None:
        """Send logs and TensorBoard files that have changed since they were sent last, as ``GrowingFiles.push``."""
        for folder in (layout.LOGS, layout.TENSORBOARD, layout.TRACKING):
            self._growing.push(self._files(folder), last=last)

    def _push_checkpoints(self) -> None:
        for name in map(layout.checkpoint_name, self.work.checkpoints()):
            if name in self._stored:
                continue
            checkpoint = self._local_checkpoint(name)
            self._send([f"{name}/{file.name}" for file in checkpoint.files])
            marker = f"{name}/{layout.CHECKPOINT_MANIFEST}"
            self.store.put_file(self.key(marker), self.work.path(marker))
            self._stored.add(name)
            self._prune_checkpoints(checkpoint)

    def _drop_superseded(self) -> None:
        """While the store cannot be reached checkpoints pile up here: only those that would be kept there wait for it."""
        steps = self.work.checkpoints()
        if len(steps) > self.keep_checkpoints:
            best = self._local_checkpoint(layout.checkpoint_name(steps[-1])).best_step
            for step in set(steps[: -self.keep_checkpoints]) - {best}:
                rmtree(self.work.path(layout.checkpoint_name(step)), ignore_errors=True)

    def _local_checkpoint(self, name: str) -> Checkpoint:
        return read_file(Checkpoint, self.work.path(name) / layout.CHECKPOINT_MANIFEST)

    def _prune_checkpoints(self, newest: Checkpoint) -> None:
        """Keep the newest ``keep_checkpoints`` and the best. The marker goes first: half-deleted is not complete."""
        keep = {layout.checkpoint_name(s) for s in self.stored_checkpoints()[-self.keep_checkpoints :]}
        keep |= {layout.checkpoint_name(newest.step), layout.checkpoint_name(newest.best_step or newest.step)}
        names = [name for name in self._names(layout.CHECKPOINTS) if layout.checkpoint_step(name) is not None]
        for name in sorted(names, key=lambda name: not name.endswith(f"/{layout.CHECKPOINT_MANIFEST}")):
            if name.rpartition("/")[0] not in keep:
                self.store.delete(self.key(name))

    def _push_stages(self) -> None:
        for stage in STAGES:
            name = layout.stage_name(stage.name)
            if stage.name in self._stored or not self.work.path(name).is_file():
                continue
            objects = self._send(list(self._files(stage.folder))) if stage.folder else []
            record = read_file(stage.record, self.work.path(name))
            self.store.put_record(self.key(name), record.model_copy(update={"objects": objects}))
            self._stored.add(stage.name)

    def _send(self, names: Sequence[str]) -> list[StoredObject]:
        """Store these files, several at a time; say what was stored."""
        hashes = upload(self.store, {self.key(name): self.work.path(name) for name in names})
        sizes = {name: self.work.path(name).stat().st_size for name in names}
        return [StoredObject(key=name, size=sizes[name], sha256=hashes[self.key(name)]) for name in names]

    def stage_records(self, so: str = "") -> dict[str, StageRecord[Any]]:
        """The records in the store by stage: of stages that are finished, with everything they left. One that is damaged
        is ignored; ``so``: what follows from that, for the warning."""
        there = set(self._names(layout.STAGES))
        kinds = {name: stage.record for stage in STAGES if (name := layout.stage_name(stage.name)) in there}
        found = {name: self._record_if_whole(name, kind, so) for name, kind in kinds.items()}
        return {record.stage: record for record in found.values() if record is not None}

    def attempts(self) -> list[Attempt]:
        """The records of all attempts of the run."""
        names = [name for name in self._names(layout.ATTEMPTS) if layout.attempt_of(name)]
        so = ", so the run's figures leave this attempt out"
        return [record for name in names if (record := self._record_if_whole(name, Attempt, so))]

    def stored_checkpoints(self) -> list[int]:
        """The steps of the checkpoints in the store that have their last file, ascending."""
        names = (name for name in self._names(layout.CHECKPOINTS) if name.endswith(f"/{layout.CHECKPOINT_MANIFEST}"))
        return sorted(step for name in names if (step := layout.checkpoint_step(name)) is not None)

    def checkpoint_records(self) -> dict[int, Checkpoint]:
        """The complete checkpoints in the store, by step."""
        steps = {
            step: f"{layout.checkpoint_name(step)}/{layout.CHECKPOINT_MANIFEST}" for step in self.stored_checkpoints()
        }
        found = {step: self._record_if_whole(name, Checkpoint) for step, name in steps.items()}
        return {step: record for step, record in found.items() if record is not None}

    def _names(self, folder: str) -> list[str]:
        """The objects in a folder of the run, by their names. There may be more than jobs wrote."""
        return [layout.object_name(self.run, stored.key) for stored in self.store.objects(self.key(folder) + "/")]

    def _record_if_whole(self, name: str, kind: type[R], so: str = "") -> R | None:
        try:
            return self.store.get_record(self.key(name), kind)
        except (Damaged, NotFound) as exc:
            log.warning("%s is damaged and is ignored%s; no action is needed: %s", name, so, _cause(exc))
            return None

    def pull_stages(self) -> set[str]:
        """Bring what finished stages left to this folder, records last; return the finished stages.

        A stage of which something is damaged or missing is not finished. Without the trained adapter neither are the stages
        that use it: training goes on from a checkpoint, and may end with other weights.
        """
        finished = set()
        for stage, record in self.stage_records(_RUNS_AGAIN).items():
            if BY_NAME[stage].process in ("tuned", "export") and "train" not in finished:
                continue
            try:
                self._fetch({stored.key: stored for stored in record.objects})
            except (Damaged, NotFound) as exc:
                text = "the stored results of stage %s are damaged and are ignored%s; no action is needed: %s"
                log.warning(text, stage, _RUNS_AGAIN, _cause(exc))
                continue
            write_file(self.work.path(layout.stage_name(stage)), record)
            finished.add(stage)
        self._stored |= finished
        return finished

    def pull_checkpoints(self) -> None:
        """Bring the newest complete checkpoint and its best one to this folder, unless newer ones are here already.

        One that is damaged or incomplete (two jobs of a run may have written it at once) is skipped for the one before it,
        and stored again when training comes to its step again.
        """
        stored = self.stored_checkpoints()
        self._stored |= {layout.checkpoint_name(step) for step in stored}
        for step in reversed(stored):
            if max(self.work.checkpoints(), default=0) >= step:
                return
            try:
                best = self._fetch_checkpoint(step).best_step
                if best in stored and best != step:
                    self._fetch_checkpoint(best)
                return
            except (Damaged, NotFound) as exc:
                text = "the checkpoint of step %d is skipped, so training resumes from an earlier one, or from the start if "
                text += "there is none; no action is needed: %s"
                log.warning(text, step, _cause(exc))
                rmtree(self.work.path(layout.checkpoint_name(step)), ignore_errors=True)
                self._stored.discard(layout.checkpoint_name(step))

    def _fetch_checkpoint(self, step: int) -> Checkpoint:
        name = layout.checkpoint_name(step)
        marker = f"{name}/{layout.CHECKPOINT_MANIFEST}"
        checkpoint = self.store.get_record(self.key(marker), Checkpoint)
        self._fetch({f"{name}/{file.name}": file for file in checkpoint.files})
        write_file(self.work.path(marker), checkpoint)
        return checkpoint

    def _fetch(self, files: Mapping[str, StoredObject | CheckpointFile]) -> None:
        """Bring these files to this folder, each with the size and SHA-256 that are recorded of it.

        Raises ``StoreError`` before anything is written if the path of one is outside of this folder.
        """
        paths = {
            TransferItem(self.key(name), file.size, file.sha256): local_path(self.work.root, name)
            for name, file in files.items()
        }
        download(self.store, list(paths), paths.__getitem__)

    def _files(self, folder: str) -> Iterator[str]:
        root = self.work.path(folder)
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                yield f"{folder}/{path.relative_to(root).as_posix()}"


def _cause(exc: Exception) -> str:
    """What is wrong with an object, without what an error advises: the job itself makes it anew."""
    return str(exc).partition(";")[0]
