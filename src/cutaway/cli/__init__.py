"""The command line: `cutaway --help` teaches it.

Each command calls the same function as the Python that its help shows. A refusal is one line on standard error and
exit status 2; Ctrl-C says what was kept and exits with 130.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import click

from cutaway import __version__
from cutaway.core.errors import CutawayError

_COMMANDS = {
    "explain": "cutaway.cli.explain:explain",
    "trust": "cutaway.cli.trust:trust",
    "run": "cutaway.cli.run:run",
    "methods": "cutaway.cli.lists:methods",
    "models": "cutaway.cli.lists:models",
    "data": "cutaway.cli.lists:data",
    "layers": "cutaway.cli.lists:layers",
    "report": "cutaway.cli.report:report",
    "jobs": "cutaway.cli.jobs:jobs",
    "train": "cutaway.cli.train:train",
    "microscope": "cutaway.cli.microscope:microscope",
}


class _Lazy(click.Group):
    """Commands that are imported when they are used, so that `--help` does not wait for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order a newcomer needs them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[name].partition(":")
        command = getattr(__import__(module, fromlist=[attribute]), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest commands where there is no such one."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            from cutaway.core.errors import unknown_name

            raise unknown_name("command", args[0], _COMMANDS, "`cutaway --help` lists all.")
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="cutaway")
@click.option("--debug", is_flag=True, help="Show the whole traceback of an error.")
def cli(debug: bool) -> None:
    """See inside trained networks: explain a prediction, and test the explanation.

    \b
    Start here:
      cutaway explain cat.jpg                     what an ImageNet network saw in a photo
      cutaway explain photos/chelsea --open       the same for a photo that comes with cutaway
      cutaway explain cat.jpg --model net.py:make --weights net.safetensors --classes names.txt
      cutaway trust photos-of-mine                which methods to believe, tested on a folder of photos
      cutaway methods                             all methods
      cutaway run rise --x cat.jpg --target tabby one method
    """  # noqa: D301 click reads \b as "keep these lines"


def main(args: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = sys.argv[1:] if args is None else args
    debug = "--debug" in args
    try:
        with _terminated_like_interrupted():
            return int(cli.main(args, prog_name="cutaway", standalone_mode=False) or 0)
    except CutawayError as error:
        if debug:
            raise
        return _complain(str(error), 2)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _complain("Interrupted. Results that were finished are kept; nothing half-written is left.", 130)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): point stdout elsewhere, so that the flush at exit is silent.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complain(message: str, status: int) -> int:
    with contextlib.suppress(OSError):
        print(f"cutaway: {message}", file=sys.stderr)
    return status


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM clean up as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
