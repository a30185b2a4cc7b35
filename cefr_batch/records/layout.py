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

from cefr_batch.errors import UsageError

RUNS = "runs"
DATASETS = "datasets"
REPORTS = "reports"
RATINGS = "ratings"
STUDIES = "studies"

STUDY = "study.json"  # relative to studies/<study>/

# Objects of a run, relative to runs/<run>/.
SPEC = "spec.json"
SUBMISSION = "submission.json"
STATUS = "status.json"
METRICS = "metrics.json"
EVALUATION = "evaluation.json"  # what the losses in metrics.json are made of, by example
GENERATION = "generation.json"  # the texts that the models wrote
MANIFEST = "manifest.json"
ATTEMPTS = "attempts"
LOGS = "logs"
STAGES = "stages"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
TRACKING = "tracking"  # what wandb, mlflow and trackio wrote on the machine
ADAPTER = "adapter"
ADAPTER_WEIGHTS = "adapter/adapter_model.safetensors"
MERGED = "merged"
PAUSE = "pause.json"  # after which step training is to stop, if it is
RUNGS = "rungs"  # what the model was worth where training was paused
CARD = "README.md"  # in the folders of the adapter, the merged model and each export: what others read of the model
PLOTS = "plots"
EVALUATIONS = "evaluations"  # on other sets of examples, computed when the run was complete; not in its manifest
NOTICES = "notices"  # that people were told of what happened to the run; not in its manifest
EVALUATION_JOB = f"{EVALUATIONS}/job"  # what those who compute them say: request, submission, status, logs
EVALUATION_REQUEST = f"{EVALUATION_JOB}/request.json"
EVALUATION_SUBMISSION = f"{EVALUATION_JOB}/submission.json"
EVALUATION_STATUS = f"{EVALUATION_JOB}/status.json"
EVALUATION_LOGS = f"{EVALUATION_JOB}/logs"
EXPORTS = "exports"  # the model in other programs' formats, each in a folder; not in the manifest, they may come later
EXPORT_RECORD = "export.json"  # last file of an export; without it the export does not count
CHECKPOINT_MANIFEST = "checkpoint.json"  # last file of a checkpoint; without it the checkpoint does not count

# Files of a dataset, relative to datasets/<sha256>/.
TRAIN_FILE = "train.json"
EVAL_FILE = "eval.json"

PLOT_NAMES = ("training_loss", "eval_loss", "combined_loss", "learning_rate", "gradient_norm")

_RUN_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VERSIONED = re.compile(r"^(?P<family>.+)-(?P<level>a1|a2|b1|b2|c1)-(?P<backend>[a-z]+)-v(?P<version>[1-9][0-9]*)$")

_TRIAL = re.compile(r"(.+-s[1-9][0-9]*)-t[1-9][0-9]*")

# Names that carry a number. Whoever lists a folder takes these alone: others may have put more there.
_LOG = re.compile(rf"(?:{LOGS}|{EVALUATION_LOGS})/attempt-([1-9][0-9]{{0,8}})\.log")
_ATTEMPT = re.compile(rf"{ATTEMPTS}/([1-9][0-9]{{0,8}})\.json")
_EVALUATION = re.compile(rf"{EVALUATIONS}/([a-z0-9-]{{1,63}})\.json")
_EXPORT = re.compile(rf"{EXPORTS}/([a-z0-9_-]{{1,63}})/{re.escape(EXPORT_RECORD)}")
_CHECKPOINT = re.compile(rf"{CHECKPOINTS}/step-(0|[1-9][0-9]{{0,17}})/[^/]+")


def is_run_name(name: str) -> bool:
    """A run name is also a Kubernetes name: lower-case letters, digits and dashes, at most 63."""
    return bool(_RUN_NAME.fullmatch(name))


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


def object_name(run: str, key: str) -> str:
    """An object's key without ``runs/<run>/``."""
    return key.removeprefix(f"{RUNS}/{run}/")


def report_folder(first_run: str) -> str:
    """``reports/<run>``: the report of the runs that were submitted together, by the name of the first."""
    return f"{REPORTS}/{first_run}"


def study_key(study: str, *parts: str) -> str:
    """``studies/<study>/<part>/…``"""
    if not is_run_name(study):
        raise ValueError(f"not a study's name: {study!r}")
    return "/".join((STUDIES, study, *parts))


def trial_name(trial: int) -> str:
    """``trials/<n>.json``, relative to the study."""
    return f"trials/{trial}.json"


def choice_name(number: int, rung: int) -> str:
    """``choices/round-<r>-rung-<k>.json``, relative to the study: both from 1."""
    return f"choices/round-{number}-rung-{rung}.json"


def trial_run(study: str, trial: int) -> str:
    """The run of a study's trial. It has no version, so it is never a level's newest run."""
    return f"{study}-t{trial}"


def study_of(run: str) -> str | None:
    """The study whose trial this run is, by its name; None for another run."""
    return _found(_TRIAL, run)


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


def is_rater_key(key: str) -> bool:
    """Whether an object of a form's raters has the name of a rater's document."""
    return bool(re.fullmatch(r"[0-9a-f]{16}\.json", key.rpartition("/")[2]))


def dataset_key(sha256: str, name: str) -> str:
    """``datasets/<sha256>/<name>``"""
    return f"{DATASETS}/{sha256}/{name}"


def attempt_name(attempt: int) -> str:
    """``attempts/<n>.json``, relative to the run: whoever writes it is the run's n-th job, and none before it counts."""
    return f"{ATTEMPTS}/{attempt}.json"


def log_name(attempt: int, folder: str = LOGS) -> str:
    """``logs/attempt-<n>.log``, relative to the run."""
    return f"{folder}/attempt-{attempt}.log"


def log_attempt(name: str) -> int | None:
    """The attempt whose log has this name, relative to the run; None for another object."""
    return _number(_LOG, name)


def attempt_of(name: str) -> int | None:
    """The attempt whose record has this name, relative to the run; None for another object."""
    return _number(_ATTEMPT, name)


def checkpoint_step(name: str) -> int | None:
    """The step of the checkpoint that this object is a part of, by its name relative to the run; None for another one."""
    return _number(_CHECKPOINT, name)


def is_foreign(name: str) -> bool:
    """Whether an object of this name, relative to the run, is no job's: what file systems and desktops leave in folders
    (``.DS_Store``, ``._x``, ``.nfs0001``) begins with a dot, and nothing of ours does.
    """
    return any(part.startswith(".") for part in name.split("/"))


def _found(pattern: re.Pattern[str], name: str) -> str | None:
    match = pattern.fullmatch(name)
    return match[1] if match else None


def _number(pattern: re.Pattern[str], name: str) -> int | None:
    found = _found(pattern, name)
    return int(found) if found else None


def notice_name(name: str) -> str:
    """``notices/<name>.json``, relative to the run."""
    return f"{NOTICES}/{name}.json"


def evaluation_name(name: str) -> str:
    """``evaluations/<name>.json``, relative to the run."""
    return f"{EVALUATIONS}/{name}.json"


def evaluation_of(name: str) -> str | None:
    """The evaluation whose document has this name, relative to the run; None for another object."""
    return _found(_EVALUATION, name)


def export_folder(kind: str) -> str:
    """``exports/<kind>``, relative to the run."""
    return f"{EXPORTS}/{kind}"


def export_name(kind: str) -> str:
    """``exports/<kind>/export.json``, relative to the run."""
    return f"{export_folder(kind)}/{EXPORT_RECORD}"


def export_of(name: str) -> str | None:
    """The export whose record has this name, relative to the run; None for another object."""
    return _found(_EXPORT, name)


def export_card(kind: str) -> str:
    """``exports/<kind>/README.md``, relative to the run."""
    return f"{export_folder(kind)}/{CARD}"


def stage_name(stage: str) -> str:
    """``stages/<stage>.json``, relative to the run."""
    return f"{STAGES}/{stage}.json"


def rung_name(step: int) -> str:
    """``rungs/step-<n>.json``, relative to the run."""
    return f"{RUNGS}/step-{step}.json"


def checkpoint_name(step: int) -> str:
    """``checkpoints/step-<n>``, relative to the run."""
    return f"{CHECKPOINTS}/step-{step}"


def cache_root() -> Path:
    """Where this machine keeps converted models and work folders: ``CEFR_BATCH_CACHE`` or the XDG cache folder.

    Raises ``UsageError`` for a user without either and without a home folder.
    """
    own = os.environ.get("CEFR_BATCH_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache") / "cefr-batch"


def _home() -> Path:
    try:
        found = Path.home()
    except (RuntimeError, KeyError):  # a container's user without a name, and no HOME
        found = Path()
    if not found.is_absolute():
        raise UsageError("this user has no home folder; set HOME, or CEFR_BATCH_CACHE to a folder for models and work")
    return found


def default_work_root() -> Path:
    """Where jobs work on this machine: ``CEFR_BATCH_WORK`` or a folder of the cache."""
    own = os.environ.get("CEFR_BATCH_WORK")
    return Path(own) if own else cache_root() / "work"


def local_queue() -> Path:
    """The folder of slots in which this machine's jobs wait for each other (several machines may share a home folder)."""
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
        steps = (checkpoint_step(file.relative_to(self.root).as_posix()) for file in found)
        return sorted(step for step in steps if step is not None)

    @property
    def tmp(self) -> Path:
        """What is being written, before it gets its name."""
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
        """The run's dataset, as it was fetched."""
        return self.root / "dataset"

    @property
    def sets(self) -> Path:
        """The datasets of other sets that the run's model is evaluated on, each under its name in the store."""
        return self.root / "sets"

    @property
    def starting_adapter(self) -> Path:
        """The adapter of another run from which training starts, as it was fetched."""
        return self.root / "starting-adapter"

    @property
    def progress(self) -> Path:
        """How far the stage is, see ``records.status.Progress``."""
        return self.root / "control" / "progress.json"

    @property
    def error(self) -> Path:
        """Why a stage's process ended, see ``records.control.StageError``."""
        return self.root / "control" / "error.json"

    @property
    def oom_events(self) -> Path:
        """The batch sizes that did not fit on the GPU."""
        return self.root / "control" / "oom_events.json"
