"""Edge: the command line: parse, call the pipeline, print, exit.

Exit codes: 0 pass or warn, 1 a hot path grew, 2 usage, 3 could not record (or keep what was)
or the command failed, 4 a required baseline is missing, 5 inconclusive where the policy fails
on it, 130 interrupted.
"""

import os
import signal
import sys
from typing import NoReturn

import click

import ci_flame
from ci_flame.cli import baselines, converting, github, judging, recording, system, testing, top
from ci_flame.errors import CiFlameError, CollectError, InterruptedRunError, UsageError


def main() -> NoReturn:
    """Run the command line; every error is one line and its cure, never a traceback."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        # Not cli.main(): it ends with 1 on a broken pipe, which here means that a path grew.
        with cli.make_context("ci-flame", sys.argv[1:]) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        code = ended.exit_code
    except KeyboardInterrupt:
        code = _say(InterruptedRunError("interrupted"))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        code = _say(UsageError(error.format_message(), _help_of(error)))
    except CiFlameError as error:
        code = _say(error)
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`); the interpreter would say so at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except (OSError, MemoryError) as error:
        code = _say(CollectError(f"the system refused: {error or type(error).__name__}"))
    sys.exit(code if isinstance(code, int) else 0)


def _terminated(_number: int, _frame: object) -> NoReturn:
    """Unwind as after Ctrl-C: worktrees and collectors are put away on the way."""
    raise InterruptedRunError("terminated")


def _help_of(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{context.command_path if context else 'ci-flame'} --help"


def _say(error: CiFlameError) -> int:
    click.echo(f"ci-flame: {error}", err=True)
    if "CI_FLAME_REASONS" in os.environ:
        from ci_flame.pipeline import reasons  # noqa: PLC0415 - in jobs of GitHub only

        reasons.tell(reasons.taken(), reasons.words(error))
    return error.exit_code


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(ci_flame.__version__, prog_name="ci-flame")
def cli() -> None:
    """Profile benchmarks and fail the build when a hot path grew."""


for _command in (
    recording.record,
    recording.check,
    judging.compare,
    judging.explain,
    judging.gate,
    baselines.baseline,
    testing.self_test,
    github.github,
    converting.report,
    converting.export,
    converting.import_,
    system.doctor,
    top.bpf_top,
):
    cli.add_command(_command)
