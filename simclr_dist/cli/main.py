"""The command ``simclr-dist``: each subcommand parses, builds, runs, closes.

What a user can cause is one line and status 2; ``--debug`` adds the traceback. Heavy imports stand inside the
subcommands, so that ``--help`` and bad input are answered at once.
"""

import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import click

from simclr_dist import __version__
from simclr_dist.cli.cluster import cancel, logs, resume, status, submit
from simclr_dist.cli.config import show_config
from simclr_dist.cli.data import data
from simclr_dist.cli.doctor import doctor
from simclr_dist.cli.evaluate import evaluate
from simclr_dist.cli.extend import extend
from simclr_dist.cli.features import features
from simclr_dist.cli.init import init
from simclr_dist.cli.methods import methods
from simclr_dist.cli.metrics import metrics
from simclr_dist.cli.neighbours import neighbours
from simclr_dist.cli.options import with_debug
from simclr_dist.cli.plan import plan
from simclr_dist.cli.pretrain import pretrain
from simclr_dist.cli.preview import preview
from simclr_dist.cli.report import report
from simclr_dist.cli.track import track
from simclr_dist.cli.verify import verify
from simclr_dist.cli.weights import export_weights, import_weights
from simclr_dist.distributed.ending import end_process
from simclr_dist.distributed.launchers import rank_here
from simclr_dist.errors import AgreedError, UserError, first_line, in_one_line, is_of_full_disk, is_of_memory
from simclr_dist.importing import ctrl_c_ends_imports, said_while_importing
from simclr_dist.terminal import say


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    status: Any = 1
    try:
        status = command.main(arguments, prog_name="simclr-dist", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message(), err=True)
        status = 2
    except (UserError, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        if not isinstance(error, AgreedError) or rank_here() == 0:
            _complain(in_one_line(message), debug)
        elif "SLURM_JOB_ID" in os.environ:
            time.sleep(1)  # SLURM ends the others with this process: not before process 0 has printed it
        status = 2
    except (KeyboardInterrupt, click.Abort):
        status = 128 + signal.SIGINT
    except Exception as error:
        if isinstance(error, OSError) and (is_of_full_disk(error) or error.errno == errno.EROFS):
            where = error.filename or "standard output or a file of this command"
            cure = "choose a place that can" if error.errno == errno.EROFS else "make room there, then start again"
            _complain(f"{where} cannot be written: {error.strerror}; {cure}", debug)
            end_process(2)
        if is_of_memory(error):
            _complain(
                f"out of memory: {first_line(error)}; give smaller or fewer images at once, or a smaller network "
                "(machine.images_per_chunk, --batch-at-once; plan says what a run takes)",
                debug,
            )
            end_process(2)
        found = f"{type(error).__name__}: {first_line(error)}"
        _complain(f"{found}; unexpected error, probably a bug; --debug shows the traceback", debug)
        status = 1
    end_process(status if isinstance(status, int) else 0)


def _complain(message: str, debug: bool) -> None:
    if debug:
        say(traceback.format_exc(), err=True)
    where = f" (process {rank_here()})" if rank_here() else ""
    say(f"simclr-dist{where}: {message}", err=True)


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """The subcommand's status. A pipe that breaks is no reader who has had enough (``say`` knows those), which
        click would take it for: it would end with status 1 and without a word."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise RuntimeError(f"{type(error).__name__}: {first_line(error)}") from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(__version__, prog_name="simclr-dist")
@with_debug
@click.pass_context
def command(context: click.Context) -> None:
    """Distributed large-batch contrastive pretraining: the trajectory depends on the recipe alone.

    CONFIG is a YAML file, or the name of a shipped recipe such as digits_demo; KEY=VALUE overrides a key of it.
    """
    # pretrain says that it starts, in a log too.
    says = rank_here() == 0 and context.invoked_subcommand != pretrain.name
    context.with_resource(said_while_importing("libraries", active=says))
    context.with_resource(ctrl_c_ends_imports())


for each in (
    init, methods, pretrain, extend, show_config, preview, plan, verify, doctor, data, evaluate, report, features,
    neighbours, metrics, track, export_weights, import_weights, submit, status, logs, cancel, resume,
):  # fmt: skip
    command.add_command(each)
