"""A batch as sbatch scripts. Pure: what is rendered here is what ``--dry-run`` prints and what is sent."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from cefr_batch.launch.base import Batch, JobOrder
from cefr_batch.launch.slurm.site import SlurmSite
from cefr_batch.store import store_folder

_WORK = "/work"  # the one folder of the image, besides /tmp, that is written to
_REPORT = {"cpus": "1", "memory": "2G", "time": "00:30:00"}


@dataclass(frozen=True)
class Script:
    """One sbatch: its script, and what each job of it runs on its node (more than one: an array)."""

    text: str
    commands: tuple[tuple[str, ...], ...]
    store_url: str
    after_all: bool = False  # with --dependency on all jobs before it

    def sbatch(self, script: str, before: Sequence[str]) -> list[str]:
        """The command that submits it, once the ids of the jobs before it are known."""
        dependency = [f"--dependency=afterany:{':'.join(before)}"] if self.after_all else []
        return ["sbatch", *dependency, script]


@dataclass(frozen=True)
class SlurmRequest:
    scripts: tuple[Script, ...]
    order: tuple[int, ...]  # of the batch's jobs among the scripts' jobs


def render(site: SlurmSite, batch: Batch) -> SlurmRequest:
    """An array for the jobs whose resources agree, and the report after them."""
    numbered = sorted(enumerate(batch.orders), key=lambda item: (item[1].gpus, item[0]))
    groups = [list(group) for _, group in groupby(numbered, key=lambda item: item[1].gpus)]
    scripts = [_jobs(site, [order for _, order in group]) for group in groups]
    if batch.report_url:
        scripts.append(_report(site, batch))
    return SlurmRequest(tuple(scripts), tuple(index for index, _ in numbered))


def _jobs(site: SlurmSite, orders: Sequence[JobOrder]) -> Script:
    runs = [order.run for order in orders]
    directives = _directives(site, runs[0] if len(runs) == 1 else "cefr-batch")
    directives |= {"cpus-per-task": str(site.cpus), "mem": site.memory, "time": site.time}
    if site.gres:
        directives["gres"] = _gres(site, orders[0].gpus)
    directives |= {"signal": f"USR2@{site.signal_seconds}", "requeue": ""}
    if len(runs) > 1:
        limit = f"%{site.array_limit}" if site.array_limit else ""
        directives["array"] = f"0-{len(runs) - 1}{limit}"
    directives["output"] = str(site.jobs / ("%A_%a_0_log.out" if len(runs) > 1 else "%j_0_log.out"))
    commands = tuple(_run_job(site, order) for order in orders)
    return Script(_text(site, directives, str(site.cpus)), commands, orders[0].store_url)


def _report(site: SlurmSite, batch: Batch) -> Script:
    """On a processor of the same partition: it reads small files from the store."""
    directives = _directives(site, "cefr-batch-report")
    directives |= {"cpus-per-task": _REPORT["cpus"], "mem": _REPORT["memory"], "time": _REPORT["time"]}
    directives["output"] = str(site.jobs / "%j_0_log.out")
    store = batch.orders[0].store_url
    command = _in_container(site, batch.report_command(), store, gpus=False, cpus=_REPORT["cpus"])
    return Script(_text(site, directives, _REPORT["cpus"]), (command,), store, after_all=True)


def _directives(site: SlurmSite, name: str) -> dict[str, str]:
    """What every job of the site has, in the order in which it is written."""
    named = {"partition": site.partition, "account": site.account, "qos": site.qos, "constraint": site.constraint}
    return {"job-name": name, **{key: value for key, value in named.items() if value}, "nodes": "1", "ntasks": "1"}


def _gres(site: SlurmSite, gpus: int) -> str:
    """The site's gres, with as many GPUs as the run wants; 1 leaves it as the site has it."""
    request = site.gpu_request
    return f"{request[0]}:{gpus}" if request and gpus > 1 else str(site.gres)


def _text(site: SlurmSite, directives: dict[str, str], cpus: str) -> str:
    """The script. Everything that comes from a setting is quoted, but for ``setup``, which is shell."""
    options = [f"--{key}={value}" if value else f"--{key}" for key, value in directives.items()]
    options += ["--open-mode=append", *site.options]
    exports = {**_caches(site), **site.environment, "SUBMITIT_EXECUTOR": "slurm"}
    python = site.python or sys.executable
    job = (python, "-u", "-m", "submitit.core._submit", str(site.jobs))
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH {_quoted(option)}" for option in options),
            "",
            *site.setup,
            *(f"export {key}={shlex.quote(value)}" for key, value in exports.items()),
            f"mkdir -p {shlex.quote(str(site.work_root))}",
            # a step, since Slurm tells steps, not the batch script, that the job is preempted; and from 22.05 on a step
            # gets one processor unless it asks for more
            f"srun --unbuffered --cpus-per-task={cpus} {shlex.join(job)}",
            "",
        ]
    )


def _caches(site: SlurmSite) -> dict[str, str]:
    """Models are kept for all jobs; the submitter's own caches may not be there on the node, and not in a container."""
    if site.container.runtime == "none":
        return {"CEFR_BATCH_CACHE": str(site.cache)}
    return {"CEFR_BATCH_CACHE": f"{_WORK}/cache/cefr-batch", "HF_HOME": f"{_WORK}/cache/huggingface"}


def _quoted(option: str) -> str:
    """As sbatch reads a directive: in quotes, and with a backslash before a quote or a backslash, which (unlike in a
    shell) escapes in single quotes too."""
    name, equals, value = option.partition("=")
    if re.fullmatch(r"[A-Za-z0-9_.,:@%+/-]*", value):
        return option
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name}{equals}"{escaped}"'


def _run_job(site: SlurmSite, order: JobOrder) -> tuple[str, ...]:
    request = site.gpu_request
    gpus = order.gpus_at(request[1] if request else 0, "gres")
    work = str(site.work_root) if site.container.runtime == "none" else _WORK
    words = order.command(work, promised_gpus=gpus if site.check_gpu else 0)
    return _in_container(site, words, order.store_url, gpus=gpus > 0, cpus=str(site.cpus))


def _in_container(site: SlurmSite, words: Iterable[str], store_url: str, *, gpus: bool, cpus: str) -> tuple[str, ...]:
    """``cefr-batch WORDS`` as the node's command."""
    box, image = site.container, str(site.container.image)
    program = (box.program, *words)
    mounts = list(dict.fromkeys([*_own_mounts(site, store_url), *box.mounts]))
    if box.runtime == "apptainer":
        binds = tuple(part for mount in mounts for part in ("--bind", mount))
        return ("apptainer", "exec", *(("--nv",) if gpus else ()), *binds, *box.options, image, *program)
    if box.runtime == "charliecloud":
        binds = tuple(f"--bind={mount}" for mount in mounts)
        return ("ch-run", "--set-env", *binds, *box.options, image, "--", *program)
    if box.runtime == "pyxis":
        # in a step of its own beside the one that starts it, which keeps Slurm's commands at hand
        step = ("srun", "--overlap", "--ntasks=1", f"--cpus-per-task={cpus}", f"--container-image={image}")
        return (*step, f"--container-mounts={','.join(mounts)}", *box.options, *program)
    return (site.python or sys.executable, "-m", "cefr_batch", *words)


def _own_mounts(site: SlurmSite, store_url: str) -> list[str]:
    """What a job in a container needs in any case: a place to work and, where the store is a folder, that."""
    store = store_folder(store_url)
    return [f"{site.work_root}:{_WORK}", *([f"{store}:{store}"] if store else [])]
