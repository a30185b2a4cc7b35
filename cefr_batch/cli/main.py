"""The command line. Each command is a module that loads when it is used; errors and warnings are printed here alone."""

from __future__ import annotations

import difflib
import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

import click
from typing_extensions import override

from cefr_batch import __version__
from cefr_batch.cli.printable import printable, shortened
from cefr_batch.cli.standard_streams import drop_output, open_closed_streams, output_failed
from cefr_batch.errors import CefrBatchError

# Name -> (module whose `command` it is, help in one line). In the order of --help, which imports none of them.
COMMANDS = {
    "init": ("cefr_batch.cli.cmd_init", "Write the first files: a job file, data, a site file."),
    "config": ("cefr_batch.cli.cmd_config", "Show which files and settings are used."),
    "submit": ("cefr_batch.cli.cmd_submit", "Start a run for each level."),
    "render": ("cefr_batch.cli.cmd_render", "Print what starts a run, for kubectl apply or GitOps."),
    "plan": ("cefr_batch.cli.cmd_plan", "Show what a run would do."),
    "search": ("cefr_batch.cli.cmd_search", "Search for good settings of a level."),
    "doctor": ("cefr_batch.cli.cmd_doctor", "Check whether jobs can run on a cluster."),
    "list": ("cefr_batch.cli.cmd_list", "List all runs of the store."),
    "status": ("cefr_batch.cli.cmd_status", "Show the state and progress of runs."),
    "logs": ("cefr_batch.cli.cmd_logs", "Print a run's log, or follow it."),
    "cancel": ("cefr_batch.cli.cmd_cancel", "Ask runs to store a checkpoint and stop."),
    "resume": ("cefr_batch.cli.cmd_resume", "Resume stopped runs from their last checkpoint."),
    "pull": ("cefr_batch.cli.cmd_pull", "Fetch complete runs and verify every file."),
    "export": ("cefr_batch.cli.cmd_export", "Write models for Ollama, llama.cpp, vLLM or the hub."),
    "evaluate": ("cefr_batch.cli.cmd_evaluate", "Evaluate runs' models on other levels' examples, or your own."),
    "generate": ("cefr_batch.cli.cmd_generate", "Write sentences with a run's model."),
    "serve": ("cefr_batch.cli.cmd_serve", "Try the models in a browser, and look at the runs."),
    "verify": ("cefr_batch.cli.cmd_verify", "Check stored runs against their manifests."),
    "tensorboard": ("cefr_batch.cli.cmd_tensorboard", "Show the curves of runs in TensorBoard."),
    "prune": ("cefr_batch.cli.cmd_prune", "Remove runs by name, checkpoints and old runs by rule."),
    "report": ("cefr_batch.cli.cmd_report", "Compare the levels."),
    "rate": ("cefr_batch.cli.cmd_rate", "Let people rate the models' sentences blindly."),
    "data": ("cefr_batch.cli.cmd_data", "Check, measure and build training data."),
    "bench": ("cefr_batch.cli.cmd_bench", "Measure jobs on this machine's GPU."),
    "run-job": ("cefr_batch.cli.cmd_run_job", "Carry out one run in this process (what submit starts)."),
}

EXIT_CTRL_C = 130
_OTHERWISE = {"delete": "prune", "remove": "prune", "rm": "prune", "train": "submit", "stop": "cancel", "new": "init"}


class LazyGroup(click.Group):
    """A group whose commands are imported one at a time, when they run."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        return command

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            meant = _OTHERWISE.get(args[0])
            close = [meant] if meant else difflib.get_close_matches(args[0], COMMANDS, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"valid: {', '.join(COMMANDS)}."
            ctx.fail(f"No command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@dataclass
class Settings:
    """The options before the command's name."""

    debug: bool = False


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cefr-batch")
@click.option("--debug", is_flag=True, envvar="CEFR_BATCH_DEBUG", help="Show a traceback for every error.")
@click.pass_obj
def cli(settings: Settings, debug: bool) -> None:
    """Fine-tune a small language model once per CEFR level, as batch jobs, and compare the levels."""
    settings.debug = debug


class _EchoHandler(logging.Handler):
    @override
    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:  # a bug
            traceback.print_exception(*record.exc_info)
        click.echo(f"{record.levelname.lower()}: {printable(shortened(record.getMessage()))}", err=True)


@contextmanager
def _warnings_printed() -> Iterator[None]:
    """Print the package's warnings to standard error while a command runs."""
    logger, handler = logging.getLogger("cefr_batch"), _EchoHandler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _environment_failed(exc: OSError) -> int:
    """Say what this machine refused."""
    if output_failed(exc):
        drop_output()
        what = "standard output cannot be written"
    else:
        what = str(exc.filename or "this machine refused something")
    click.echo(f"error: {printable(what)}: {exc.strerror or exc} (--debug shows where)", err=True)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 failure, 2 usage, 75 stopped after a checkpoint, 130 Ctrl-C."""
    settings = Settings()
    open_closed_streams()
    try:
        with _warnings_printed():
            code = cli.main(args=argv, prog_name="cefr-batch", standalone_mode=False, obj=settings)
    except CefrBatchError as exc:
        if settings.debug:
            traceback.print_exc()
        click.echo(f"error: {printable(shortened(str(exc)))}", err=True)
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return EXIT_CTRL_C
    except OSError as exc:
        if settings.debug:
            traceback.print_exc()
        return _environment_failed(exc)
    except Exception:
        traceback.print_exc()
        click.echo("error: this is a bug in cefr-batch; please report it with the lines above", err=True)
        return 1
    return code if isinstance(code, int) else 0
