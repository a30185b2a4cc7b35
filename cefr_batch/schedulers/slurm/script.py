"""Jobs as sbatch scripts. Pure: what is rendered here is what ``--dry-run`` prints and what is submitted."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from cefr_batch.errors import SchedulerError
from cefr_batch.schedulers.base import JobGroup, JobSpec
from cefr_batch.schedulers.sites import notify_environment
from cefr_batch.schedulers.slurm.gres import options_with, options_without_gpus
from cefr_batch.schedulers.slurm.job import STOPPED
from cefr_batch.schedulers.slurm.site import SlurmSite
from cefr_batch.store import store_folder

GROUP = "cefr-batch"  # the name of an array of jobs
LOG = "_0_log.out"  # the end of the path of a job's output, as submitit names it
_SCRIPT = "_submission.sh"  # the end of a script's path

_WORK = "/work"  # the one folder of the image, besides /tmp, that is written to
_REPORT_CPUS, _REPORT_MEMORY, _REPORT_TIME = 1, "2G", "00:30:00"


@dataclass(frozen=True)
class Script:
    """What one ``sbatch`` submits: its script, and the command that each of its jobs runs on its node.

    Several commands are the tasks of a job array, by index. ``after_all``: starts once all jobs submitted before it have
    ended, however they did. ``run``: its first one.
    """

    text: str
    commands: tuple[tuple[str, ...], ...]
    run: str
    store_url: str
    after_all: bool = False

    @property
    def folder(self) -> str:
        """The name of its folder among those of a cluster: no other run has it, in this store or another."""
        return folder_name(f"{self.run}-report" if self.after_all else self.run, self.store_url)

    def sbatch(self, file: str, folder: str, before: Sequence[str]) -> list[str]:
        """The command that submits it from ``file``. ``folder``: for its jobs' files and output; ``before``: the ids of the
        jobs and arrays submitted before it."""
        dependency = [f"--dependency=afterany:{':'.join(before)}"] if self.after_all else []
        output = f"--output={folder}/{'%A_%a' if len(self.commands) > 1 else '%j'}{LOG}"
        return ["sbatch", "--parsable", *dependency, output, file, folder]


@dataclass(frozen=True)
class SlurmRequest:
    """Scripts in the order in which they are submitted. ``positions``: for each job of the scripts, one script after the
    other, its index in the group."""

    scripts: tuple[Script, ...]
    positions: tuple[int, ...]


def folder_name(run: str, store_url: str) -> str:
    """The name of the folder of a run's jobs."""
    return f"{run}-{store_tag(store_url)}"


def store_tag(store_url: str) -> str:
    """Eight digits that stand for a store in the names of files."""
    return hashlib.sha256(store_url.encode()).hexdigest()[:8]


def script_path(folder: Path, tag: str) -> Path:
    """Where a script is written for sbatch. ``tag``: 32 hexadecimal digits, never used before."""
    return folder / f"{tag}{_SCRIPT}"


def is_script(path: str) -> bool:
    """Whether this is a path that ``script_path`` makes, as Slurm shows it: with the script's argument after it."""
    return script_tag(path) is not None


def script_tag(path: str) -> str | None:
    """The tag in such a path; None if it is another."""
    match = re.fullmatch(rf"(?:.*/)?([0-9a-f]{{32}}){re.escape(_SCRIPT)}(?: .*)?", path)
    return match[1] if match else None


def render(site: SlurmSite, group: JobGroup) -> SlurmRequest:
    """One script for the jobs that need equally many GPUs (an array if there are several, or arrays of at most
    ``array_size``), and the report's after them.

    Raises ``SchedulerError`` if a run needs several GPUs and the site has none.
    """
    by_gpus = sorted(enumerate(group.jobs), key=lambda item: (item[1].gpus, item[0]))
    equals = [[spec for _, spec in items] for _, items in groupby(by_gpus, key=lambda item: item[1].gpus)]
    size = site.array_size
    scripts = [_jobs(site, specs[n : n + size]) for specs in equals for n in range(0, len(specs), size)]
    if group.report_url:
        scripts.append(_report(site, group))
    return SlurmRequest(tuple(scripts), tuple(index for index, _ in by_gpus))


def _jobs(site: SlurmSite, specs: Sequence[JobSpec]) -> Script:
    runs = [spec.run for spec in specs]
    gpus = _gpus(site, specs[0])
    requests = _requests(site, specs[0].run, gpus)
    directives = _directives(site, runs[0] if len(runs) == 1 else GROUP)
    directives |= _resources(site.cpus, site.memory, site.mem_per_cpu) | {"time": site.time}
    if site.gres:
        directives["gres"] = requests.get("gres", site.gres)
    directives |= {"signal": f"USR2@{site.signal_seconds}", "requeue": ""}
    if len(runs) > 1:
        limit = f"%{site.array_limit}" if site.array_limit else ""
        directives["array"] = f"0-{len(runs) - 1}{limit}"
    commands = tuple(_run_job(site, spec, gpus) for spec in specs)
    text = _text(site, directives, options_with(site.options, requests), site.cpus)
    return Script(text, commands, runs[0], specs[0].store_url)


def _report(site: SlurmSite, group: JobGroup) -> Script:
    """A job without a GPU in the same partition: it only reads small files from the store. A site that lets the cluster
    decide on cpus or memory may have to, so the report's job does not ask for any then."""
    cpus = _REPORT_CPUS if site.cpus else None
    directives = _directives(site, "cefr-batch-report")
    directives |= _resources(cpus, site.memory and _REPORT_MEMORY, site.mem_per_cpu and _REPORT_MEMORY)
    directives |= {"time": _REPORT_TIME}
    run, store = group.jobs[0].run, group.jobs[0].store_url
    command = _in_container(site, group.report_command(), store, gpus=False, cpus=cpus)
    text = _text(site, directives, options_without_gpus(site.options), cpus)
    return Script(text, (command,), run, store, after_all=True)


def _directives(site: SlurmSite, name: str) -> dict[str, str]:
    """The sbatch options that every job of the site has, in the order in which they are written."""
    named = {"partition": site.partition, "account": site.account, "qos": site.qos, "constraint": site.constraint}
    return {"job-name": name, **{key: value for key, value in named.items() if value}, "nodes": "1", "ntasks": "1"}


def _resources(cpus: int | None, memory: str | None, per_cpu: str | None) -> dict[str, str]:
    """The options for cpus and memory; none for what the cluster decides."""
    asked = {"cpus-per-task": cpus and str(cpus), "mem": memory, "mem-per-cpu": per_cpu}
    return {key: value for key, value in asked.items() if value}


def _gpus(site: SlurmSite, spec: JobSpec) -> int | None:
    """How many GPUs the run's job gets; None if it cannot be told."""
    if site.gpus is not None:
        return spec.gpus_at(site.gpus, "gres")
    if spec.gpus > 1:
        (unread, *_) = [one for one in site.asked if one.why]
        raise SchedulerError(
            f"{spec.run} needs {spec.gpus} GPUs, and how many {unread.where} {unread.text} asks for is not known "
            f"({unread.why}); write it as gres: gpu:TYPE:NUMBER in the site file"
        )
    return None


def _requests(site: SlurmSite, run: str, gpus: int | None) -> dict[str, str]:
    """What the site asks for GPUs with, by setting or option, where this run's job needs more of them than the site says."""
    if not gpus or gpus == site.gpus:
        return {}
    changed = {one.where: one.with_gpus(gpus) for one in site.asked if one.gpus}
    fixed = [name for name, text in changed.items() if text is None]
    if fixed:
        raise SchedulerError(
            f"{run} needs {gpus} GPUs, but {', '.join(fixed)} of the site file asks for several kinds or for a part of one; "
            "write it as gres: gpu:TYPE:NUMBER, or choose another site with --cluster"
        )
    return {name: text for name, text in changed.items() if text}


def _text(site: SlurmSite, directives: dict[str, str], more: Sequence[str], cpus: int | None) -> str:
    """The script. Every setting in it is quoted, except ``setup``, which is shell code. ``more``: the site's options."""
    options = [f"--{key}={value}" if value else f"--{key}" for key, value in directives.items()]
    options += ["--open-mode=append", *more]
    exports = {**_caches(site), **notify_environment(site.notify), **site.environment, "SUBMITIT_EXECUTOR": "slurm"}
    python = site.python or sys.executable
    job = ("srun", "--unbuffered", *_step_cpus(cpus), python, "-u", "-m", "submitit.core._submit")
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {_quoted(option)}" for option in options),
            "",
            *_setup(site),
            *(f"export {key}={shlex.quote(value)}" for key, value in exports.items()),
            f"mkdir -p {shlex.quote(str(site.work_root))}",
            # srun makes it a step: Slurm signals a preemption to steps, not to the batch script. From 22.05 on a step has
            # one CPU unless it asks for more.
            f'{shlex.join(job)} "$1"',
            "",
        ]
    )


def _setup(site: SlurmSite) -> Iterator[str]:
    """The lines of ``setup``. Each is a group, so that it may be ``a && b``; the first that fails ends the job with its exit
    code, unless the site ignores errors."""
    lines = [line for line in site.setup if line.strip() and not line.lstrip().startswith("#")]
    if site.setup_errors == "ignore" or not lines:
        yield from site.setup
        return
    yield f'setup_failed() {{ echo "{STOPPED}setup: $1 (exit code $2)" >&2; exit "$2"; }}'
    for line in lines:
        yield f"{{ {line}"
        yield f"}} || setup_failed {shlex.quote(line)} $?"


def _step_cpus(cpus: int | None) -> tuple[str, ...]:
    return (f"--cpus-per-task={cpus}",) if cpus else ()


def _caches(site: SlurmSite) -> dict[str, str]:
    """One cache of models for all jobs: the submitter's own may not exist on the node or in a container."""
    if site.container.runtime == "none":
        return {"CEFR_BATCH_CACHE": str(site.cache)}
    return {"CEFR_BATCH_CACHE": f"{_WORK}/cache/cefr-batch", "HF_HOME": f"{_WORK}/cache/huggingface"}


def _quoted(option: str) -> str:
    """An option, quoted as sbatch reads directives: a backslash escapes, unlike in a shell, in single quotes too, so only
    double quotes are used."""
    name, equals, value = option.partition("=")
    if re.fullmatch(r"[A-Za-z0-9_.,:@%+/-]*", value):
        return option
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}{equals}"{escaped}"'


def _run_job(site: SlurmSite, spec: JobSpec, gpus: int | None) -> tuple[str, ...]:
    """``gpus``: how many its job gets. Where that cannot be told there may be some, so a container gets what it needs for
    them, and none are promised."""
    work = str(site.work_root) if site.container.runtime == "none" else _WORK
    arguments = spec.command(work, promised_gpus=(gpus or 0) if site.check_gpu else 0)
    return _in_container(site, arguments, spec.store_url, gpus=gpus != 0, cpus=site.cpus)


def _in_container(
    site: SlurmSite, arguments: Iterable[str], store_url: str, *, gpus: bool, cpus: int | None
) -> tuple[str, ...]:
    """The command that runs ``cefr-batch ARGUMENTS`` on the node, in the site's container if it has one."""
    box, image = site.container, str(site.container.image)
    program = (box.program, *arguments)
    mounts = list(dict.fromkeys([*_own_mounts(site, store_url), *box.mounts]))
    if box.runtime == "apptainer":
        binds = tuple(part for mount in mounts for part in ("--bind", mount))
        return ("apptainer", "exec", *(("--nv",) if gpus else ()), *binds, *box.options, image, *program)
    if box.runtime == "charliecloud":
        binds = tuple(f"--bind={mount}" for mount in mounts)
        return ("ch-run", "--set-env", *binds, *box.options, image, "--", *program)
    if box.runtime == "pyxis":
        # a second step beside the one that starts it, which stays outside of the container, where Slurm's commands are
        step = ("srun", "--overlap", "--ntasks=1", *_step_cpus(cpus), f"--container-image={image}")
        return (*step, f"--container-mounts={','.join(mounts)}", *box.options, *program)
    return (site.python or sys.executable, "-m", "cefr_batch", *arguments)


def _own_mounts(site: SlurmSite, store_url: str) -> list[str]:
    """The mounts that every job in a container needs: its work folder and, if the store is a folder, the store."""
    store = store_folder(store_url)
    return [f"{site.work_root}:{_WORK}", *([f"{store}:{store}"] if store else [])]
