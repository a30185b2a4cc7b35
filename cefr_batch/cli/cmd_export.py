"""``cefr-batch export``: trained models in the forms that other programs take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from cefr_batch.cli.notice import notice_if_slow
from cefr_batch.cli.options import echo_json, json_option, runs_options, session_option
from cefr_batch.cli.printable import printable
from cefr_batch.cli.progress import byte_progress
from cefr_batch.cli.show import size
from cefr_batch.errors import UsageError
from cefr_batch.runner import Session

if TYPE_CHECKING:
    from cefr_batch.export.stored import Exported
    from cefr_batch.records.exports import ExportCheck

VLLM, HUB = "vllm", "hub"
_SLOW = "Still working: converting a model takes some minutes, and so does checking the file if llama.cpp is installed."


def _forms(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> list[str]:
    from cefr_batch.config.schema import ExportForm

    valid = (*get_args(ExportForm), VLLM, HUB)
    named = [name.strip() for value in values for name in value.split(",")]
    if unknown := [name for name in named if name not in valid]:
        raise UsageError(f"--to: there is no format {', '.join(map(repr, unknown))}; valid: {', '.join(valid)}")
    return list(dict.fromkeys(named))


@click.command()
@runs_options
@click.option(
    "--to",
    "forms",
    metavar="FORMAT,...",
    multiple=True,
    required=True,
    callback=_forms,
    help="gguf, gguf-q8_0, gguf-q4_k_m (llama.cpp, LM Studio); ollama, ollama-q8_0, ollama-q4_k_m; vllm; hub.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write to this folder, a subfolder for each run, instead of the store. Always needed for vllm.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Run a GGUF file with llama.cpp and compare it with the merged model.",
)
@click.option("--repo", metavar="OWNER/NAME", help="For hub: the repository.")
@click.option(
    "--part",
    type=click.Choice(["adapter", "merged", "gguf", "gguf-q8_0", "gguf-q4_k_m"]),
    default="adapter",
    show_default=True,
    help="For hub: what to upload.",
)
@click.option("--private", is_flag=True, help="For hub: make a new repository private.")
@click.option("--dry-run", is_flag=True, help="For hub: list what would be uploaded, and upload nothing.")
@json_option
@session_option
def command(
    runs: Sequence[str],
    levels: Sequence[str],
    forms: Sequence[str],
    out: Path | None,
    verify: bool,
    repo: str | None,
    part: str,
    private: bool,
    dry_run: bool,
    as_json: bool,
    session: Session,
) -> None:
    """Export the models of complete runs: those named, and each level's newest complete one.

    A GGUF file is run by llama.cpp, where llama-cpp-python is installed, and must answer and predict as the merged model
    does. After an interruption, repeat the command: it continues where it stopped. The token of the hub is read from
    HF_TOKEN.
    """
    chosen = session.find(runs, levels, complete=True)
    _check_options(forms, chosen, out, repo, dry_run)
    done: list[dict[str, object]] = []
    for run in chosen:
        done += _gguf(session, run, forms, out, verify=verify, quiet=as_json)
    if VLLM in forms and out:
        done.append(_vllm(session, chosen, out, quiet=as_json))
    if HUB in forms and repo:
        done.append(_hub(session, chosen[0], part, repo, private=private, dry_run=dry_run, quiet=as_json))
    if as_json:
        echo_json({"store": session.store.url, "exports": done})


def _check_options(
    forms: Sequence[str], runs: Sequence[str], out: Path | None, repo: str | None, dry_run: bool
) -> None:
    if VLLM in forms and out is None:
        raise UsageError("--to vllm needs --out DIR: a folder for the adapters and the script that serves them")
    if HUB in forms and not repo:
        raise UsageError("--to hub needs --repo OWNER/NAME")
    if HUB in forms and len(runs) > 1:
        raise UsageError(f"--to hub takes one run at a time, but got {len(runs)}: {', '.join(runs)}")
    if HUB not in forms and (repo or dry_run):
        raise UsageError("--repo and --dry-run need --to hub")


def _gguf(
    session: Session, run: str, forms: Sequence[str], out: Path | None, *, verify: bool, quiet: bool
) -> list[dict[str, object]]:
    from cefr_batch.export.make import gguf_types
    from cefr_batch.export.stored import export_gguf

    done: list[dict[str, object]] = []
    for type_ in gguf_types([form for form in forms if form not in (VLLM, HUB)]):
        with notice_if_slow(_SLOW):
            exported = export_gguf(session.store, run, type_, out, verify=verify, progress=byte_progress)
        done.append(
            {"form": f"gguf-{type_}", "where": exported.where, "record": exported.record.model_dump(mode="json")}
        )
        if not quiet:
            _say(exported, out, ollama=any(form.startswith("ollama") for form in forms))
    return done


def _say(exported: Exported, out: Path | None, *, ollama: bool) -> None:
    record = exported.record
    there = ", there already" if exported.was_there else ""
    click.echo(
        f"{record.run}: {record.name}, {size(sum(one.size for one in record.objects))}, in {exported.where}{there}"
    )
    click.echo(f"  {_verdict(record.check)}" if record.check else f"  not verified: {record.not_verified}")
    if ollama:
        folder = out / record.run / record.name if out else Path("pulled") / record.run / "exports" / record.name
        if out is None:
            click.echo(f"  cefr-batch pull {record.run} --only exports")
        click.echo(f"  ollama create {record.run} -f {folder / 'Modelfile'}")


def _verdict(check: ExportCheck) -> str:
    ties = f" ({check.ties} more except where two tokens are equally probable)" if check.ties else ""
    return (
        f"verified with {check.program} on {check.examples} examples: {check.equal_prompts} prompts equal, "
        f"{check.equal_texts} greedy texts equal{ties}, loss {check.exported_loss:.4f} (merged model "
        f"{check.merged_loss:.4f})"
    )


def _vllm(session: Session, runs: Sequence[str], out: Path, *, quiet: bool) -> dict[str, object]:
    from cefr_batch.export.vllm import export_vllm

    script = export_vllm(session.store, runs, out, byte_progress)
    if not quiet:
        click.echo(
            f"{len(runs)} adapter{'s' * (len(runs) != 1)} in {out}; to serve them, run {script} on a machine that has vLLM"
        )
    return {"form": VLLM, "where": str(script), "runs": list(runs)}


def _hub(
    session: Session, run: str, part: str, repo: str, *, private: bool, dry_run: bool, quiet: bool
) -> dict[str, object]:
    from cefr_batch.export.hub import HubUpload
    from cefr_batch.export.stored import fetch_part

    upload = HubUpload(repo, fetch_part(session.store, run, part, repo, byte_progress), private)
    if not quiet:
        click.echo(f"{run}: {part} to {repo}{' (private)' if private else ''}, {size(sum(upload.files.values()))}:")
        for name, count in upload.files.items():
            click.echo(f"  {printable(name)}  {size(count)}")
    where = "" if dry_run else upload.send()
    if not quiet:
        click.echo("Nothing was uploaded (--dry-run)." if dry_run else f"Uploaded: {where}")
    return {"form": HUB, "where": where, "repo": repo, "files": upload.files, "uploaded": not dry_run}
