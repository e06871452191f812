"""The entry point: commands, and how their failures are told.

Exit code 0 for success, 2 for a wrong use, 1 for a failure.  Both are one sentence, and a traceback only with --debug.
What nobody foresaw is a fault of ours or of a library: it keeps its traceback, and the exit code is 1.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from undiffuse import __version__
from undiffuse.cli.classifier import classifier
from undiffuse.cli.colorize import colorize
from undiffuse.cli.deblur import deblur
from undiffuse.cli.demo import demo
from undiffuse.cli.denoise import denoise
from undiffuse.cli.doctor import doctor
from undiffuse.cli.evaluate import evaluate
from undiffuse.cli.inpaint import inpaint
from undiffuse.cli.interpolate import interpolate
from undiffuse.cli.likelihood import likelihood
from undiffuse.cli.reconstruct import reconstruct
from undiffuse.cli.reschedule import reschedule
from undiffuse.cli.restore import restore
from undiffuse.cli.sample import sample
from undiffuse.cli.schedule import schedule
from undiffuse.cli.solvers import solvers
from undiffuse.cli.sweep import sweep
from undiffuse.cli.train import train
from undiffuse.cli.upscale import upscale
from undiffuse.cli.vary import vary
from undiffuse.errors import Failure, UsageError

WRONG_USE, FAILURE = 2, 1

app = typer.Typer(
    name="undiffuse",
    help="Diffusion models on your own data: train, sample, look inside.  `--debug` after any command shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    train,
    sample,
    evaluate,
    classifier,
    denoise,
    reconstruct,
    interpolate,
    inpaint,
    vary,
    upscale,
    colorize,
    deblur,
    restore,
    likelihood,
    sweep,
    schedule,
    reschedule,
    solvers,
    demo,
    doctor,
):
    app.command()(command)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"undiffuse {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def tolerant(stream: Any) -> None:
    """Lets a stream print what its encoding has no letters for, such as x̂ through a Windows pipe, as question marks."""
    if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")


def _show(usual: Callable[..., None]) -> Callable[..., None]:
    """Our own notes as one line; other warnings as usual."""

    def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if category.__name__ == "Note":
            typer.echo(f"note: {message}", err=True)
        else:
            usual(message, category, *rest, **named)

    return show


def main() -> None:
    """The command `undiffuse`: runs one command, and turns errors into one sentence and an exit code."""
    debug = "--debug" in sys.argv
    tolerant(sys.stdout)
    tolerant(sys.stderr)
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show(warnings.showwarning)
            app(prog_name="undiffuse")
    except Exception as error:
        if debug:
            raise
        if not (isinstance(error, UsageError | Failure | OSError | MemoryError) or _out_of_memory(error)):
            traceback.print_exc()
            typer.secho(
                "undiffuse: this is a fault of the program, not of yours; please report the lines above.",
                fg="red",
                err=True,
            )
            sys.exit(FAILURE)
        sentence = " ".join(str(error).split()) or type(error).__name__
        typer.secho(f"undiffuse: {sentence}", fg="red", err=True)
        sys.exit(WRONG_USE if isinstance(error, UsageError) else FAILURE)


def _out_of_memory(error: Exception) -> bool:
    """Torch has an own error for a device, and a plain RuntimeError for the host."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate" in str(error)
