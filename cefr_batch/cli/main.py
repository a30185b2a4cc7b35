"""The command line. Each command is a module that loads when it is used; this is the one place that reports errors."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import click

from cefr_batch import __version__
from cefr_batch.errors import CefrBatchError

# Name -> (module whose `command` it is, help in one line). In the order of --help, which imports none of them.
COMMANDS = {
    "submit": ("cefr_batch.cli.cmd_submit", "Start a run for each level."),
    "render": ("cefr_batch.cli.cmd_render", "Print what would start a run, for kubectl apply or GitOps."),
    "plan": ("cefr_batch.cli.cmd_plan", "Show what a run would do."),
    "doctor": ("cefr_batch.cli.cmd_doctor", "Check whether jobs can run at a place."),
    "list": ("cefr_batch.cli.cmd_list", "List all runs of the store."),
    "status": ("cefr_batch.cli.cmd_status", "Show how runs are doing."),
    "logs": ("cefr_batch.cli.cmd_logs", "Print a run's log, or follow it."),
    "cancel": ("cefr_batch.cli.cmd_cancel", "Ask runs to stop after a checkpoint."),
    "resume": ("cefr_batch.cli.cmd_resume", "Go on with runs that stopped, from their last checkpoint."),
    "pull": ("cefr_batch.cli.cmd_pull", "Fetch complete runs, verified; goes on where it stopped."),
    "generate": ("cefr_batch.cli.cmd_generate", "Have a run's model write sentences."),
    "verify": ("cefr_batch.cli.cmd_verify", "Check stored runs against their manifests."),
    "tensorboard": ("cefr_batch.cli.cmd_tensorboard", "Show runs in TensorBoard."),
    "prune": ("cefr_batch.cli.cmd_prune", "Remove checkpoints and old runs, by rule."),
    "report": ("cefr_batch.cli.cmd_report", "Compare the levels."),
    "rate": ("cefr_batch.cli.cmd_rate", "Let people rate what the models wrote, blindly."),
    "data": ("cefr_batch.cli.cmd_data", "Check, measure and build training data."),
    "run-job": ("cefr_batch.cli.cmd_run_job", "Carry out one run in this process (what submit starts)."),
}

EXIT_CTRL_C = 130


class LazyGroup(click.Group):
    """A group whose commands are imported one at a time, when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"valid: {', '.join(COMMANDS)}."
            ctx.fail(f"No command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@dataclass
class Settings:
    """What the options before the command's name say."""

    debug: bool = False


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cefr-batch")
@click.option("--debug", is_flag=True, envvar="CEFR_BATCH_DEBUG", help="Show a traceback for every error.")
@click.pass_obj
def cli(settings: Settings, debug: bool) -> None:
    """Fine-tune a small language model once per CEFR level, as batch jobs, and compare the levels."""
    settings.debug = debug


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 failure, 2 usage, 75 stopped after a checkpoint, 130 Ctrl-C."""
    settings = Settings()
    try:
        code = cli.main(args=argv, prog_name="cefr-batch", standalone_mode=False, obj=settings)
    except CefrBatchError as exc:
        if settings.debug:
            traceback.print_exc()
        click.echo(f"error: {exc}", err=True)
        return exc.exit_code
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return EXIT_CTRL_C
    except Exception:
        traceback.print_exc()
        click.echo("error: this is a bug in cefr-batch; please report it with the lines above", err=True)
        return 1
    return code if isinstance(code, int) else 0
