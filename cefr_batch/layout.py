"""Every name of a run: its objects in the store, its folder on the machine that runs it, its name.

The only module that spells a key or a path. Keys use ``/`` on every platform.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

RUNS = "runs"
DATASETS = "datasets"
REPORTS = "reports"
RATINGS = "ratings"

# Objects of a run, relative to runs/<run>/.
SPEC = "spec.json"
SUBMISSION = "submission.json"
STATUS = "status.json"
METRICS = "metrics.json"
EVALUATION = "evaluation.json"  # what the losses in metrics.json are made of, by example
GENERATION = "generation.json"  # the sentences that the models wrote
MANIFEST = "manifest.json"
ATTEMPTS = "attempts"
LOGS = "logs"
STAGES = "stages"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
ADAPTER = "adapter"
MERGED = "merged"
PLOTS = "plots"
CHECKPOINT_MANIFEST = "checkpoint.json"  # last file of a checkpoint; without it the checkpoint does not count

# Files of a dataset, relative to datasets/<sha256>/.
TRAIN_FILE = "train.json"
EVAL_FILE = "eval.json"

PLOT_NAMES = ("training_loss", "eval_loss", "combined_loss", "learning_rate", "gradient_norm")

_RUN_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
_VERSIONED = re.compile(r"^(?P<family>.+)-(?P<level>a1|a2|b1|b2|c1)-(?P<backend>[a-z]+)-v(?P<version>[1-9][0-9]*)$")


def is_run_name(name: str) -> bool:
    """A run name is also a Kubernetes name: lower-case letters, digits and dashes, at most 63."""
    return bool(_RUN_NAME.match(name))


def run_level(run: str) -> str | None:
    """The level in a run's name (``B1``), or None if the name does not follow the pattern."""
    match = _VERSIONED.match(run)
    return match["level"].upper() if match else None


def run_version(run: str) -> int:
    """The number after ``-v``, 0 if there is none."""
    match = _VERSIONED.match(run)
    return int(match["version"]) if match else 0


def run_key(run: str, *parts: str) -> str:
    """``runs/<run>/<part>/…``"""
    if not is_run_name(run):
        raise ValueError(f"not a run name: {run!r}")
    return "/".join((RUNS, run, *parts))


def report_folder(first_run: str) -> str:
    """``reports/<run>``: the report of the runs that were submitted together, by the name of the first."""
    return f"{REPORTS}/{first_run}"


def is_form_id(text: str) -> bool:
    """The id of a rating form: 12 hexadecimal digits."""
    return bool(re.fullmatch(r"[0-9a-f]{12}", text))


def rating_key(form: str) -> str:
    """``ratings/<form>/key.json``: whose sentences a rating form shows."""
    return f"{RATINGS}/{form}/key.json"


def raters_folder(form: str) -> str:
    """``ratings/<form>/raters/``, with the slash."""
    return f"{RATINGS}/{form}/raters/"


def rater_key(form: str, rater: str) -> str:
    """``ratings/<form>/raters/<hash>.json``: a rater's name comes from outside, so it is no part of a path."""
    return f"{raters_folder(form)}{hashlib.sha256(rater.encode()).hexdigest()[:16]}.json"


def dataset_key(sha256: str, name: str) -> str:
    """``datasets/<sha256>/<name>``"""
    return f"{DATASETS}/{sha256}/{name}"


def attempt_name(attempt: int) -> str:
    """``attempts/<n>.json``, relative to the run: whoever writes it is the run's n-th job, and none before it counts."""
    return f"{ATTEMPTS}/{attempt}.json"


def log_name(attempt: int) -> str:
    """``logs/attempt-<n>.log``, relative to the run."""
    return f"{LOGS}/attempt-{attempt}.log"


def log_attempt(name: str) -> int | None:
    """The attempt whose log this object is (any key that ends in a log's name), or None."""
    match = re.search(r"(?:^|/)attempt-([1-9][0-9]*)\.log$", name)
    return int(match[1]) if match else None


def stage_name(stage: str) -> str:
    """``stages/<stage>.json``, relative to the run."""
    return f"{STAGES}/{stage}.json"


def checkpoint_name(step: int) -> str:
    """``checkpoints/step-<n>``, relative to the run."""
    return f"{CHECKPOINTS}/step-{step}"


def cache_root() -> Path:
    """Where this machine keeps converted models and work folders: ``CEFR_BATCH_CACHE`` or the XDG cache folder."""
    own = os.environ.get("CEFR_BATCH_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cefr-batch"


def default_work_root() -> Path:
    """Where jobs work on this machine: ``CEFR_BATCH_WORK`` or a folder of the cache."""
    own = os.environ.get("CEFR_BATCH_WORK")
    return Path(own) if own else cache_root() / "work"


def local_queue() -> Path:
    """The folder of tickets by which this machine's jobs wait for each other (a home folder may be shared by several)."""
    return cache_root() / "queue" / platform.node()


def pulled_cache(store_url: str, run: str) -> Path:
    """Where a command keeps what it fetched of a run to work with."""
    return cache_root() / "pulled" / _tag(store_url) / run


def _tag(store_url: str) -> str:
    """Runs of different stores never share a folder, even when they share a name."""
    return hashlib.sha256(store_url.encode()).hexdigest()[:8]


def model_cache(key: str) -> Path:
    """The folder of a converted model."""
    return cache_root() / "models" / key


@dataclass(frozen=True)
class WorkDir:
    """A run's folder on the machine where it runs; the parts that are stored have their names in the store.

    Everything else is in ``tmp`` (written aside, renamed when whole) and ``control`` (between the job and its stages).
    """

    root: Path

    @classmethod
    def of(cls, work_root: Path, store_url: str, run: str) -> WorkDir:
        """The folder of a run of this store."""
        return cls(work_root / _tag(store_url) / run)

    def path(self, name: str) -> Path:
        """The local file or folder of an object's name (relative to the run)."""
        return self.root.joinpath(*name.split("/"))

    def checkpoints(self) -> list[int]:
        """The steps of the complete checkpoints here, ascending; half-written ones do not count."""
        found = self.path(CHECKPOINTS).glob(f"step-*/{CHECKPOINT_MANIFEST}")
        return sorted(int(file.parent.name.removeprefix("step-")) for file in found)

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def launch_log(self) -> Path:
        """What a locally launched job printed: all there is to see when it could not even write its log."""
        return self.root / "launch.log"

    @property
    def trainer(self) -> Path:
        """Where the trainer writes its ``checkpoint-<n>`` folders."""
        return self.root / "trainer"

    @property
    def dataset(self) -> Path:
        return self.root / "dataset"

    @property
    def progress(self) -> Path:
        return self.root / "control" / "progress.json"

    @property
    def error(self) -> Path:
        return self.root / "control" / "error.json"

    @property
    def out_of_memory(self) -> Path:
        """The batch sizes that did not fit on the GPU."""
        return self.root / "control" / "out_of_memory.json"
