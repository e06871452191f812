"""The entry point: commands, and how their failures are printed.

Exit code 0 for success, 2 for a wrong use, 1 for a failure.  Both are one sentence, and a traceback only with --debug.
What nobody foresaw is a fault of ours or of a library: it keeps its traceback, and the exit code is 1.
"""

from __future__ import annotations

import difflib
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Annotated, Any

import typer

from undiffuse import __version__
from undiffuse.cli import shared
from undiffuse.cli.options import flags_of
from undiffuse.errors import ALIASES, Failure, UsageError

WRONG_USE, FAILURE = 2, 1

app = typer.Typer(
    name="undiffuse",
    help="Diffusion models on your own data: train, sample, look inside.  `--debug` after any command shows tracebacks; "
    "`--network-class module:class` is the network of your own that a model was trained with.",
    pretty_exceptions_enable=False,
)
PANELS = {  # the commands of each, with the module where it has another name
    "Start": "inspect train sample demo doctor",
    "Restore and edit images": "inverse:inpaint inverse:upscale inverse:colorize inverse:deblur "
    "edits:denoise restore edits:reconstruct edits:interpolate edits:vary",
    "Measure and tune": "evaluate likelihood sweep classifier reschedule",
    "Look up": "solvers schedule schema",
}
for panel, commands in PANELS.items():
    for module, _, name in (command.rpartition(":") for command in commands.split()):
        app.command(rich_help_panel=panel)(getattr(import_module(f"undiffuse.cli.{module or name}"), name))


def _print_version(requested: bool) -> None:
    if requested:
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
            shared.note(str(message), err=True)
        else:
            usual(message, category, *rest, **named)

    return show


def _without(option: str) -> str | None:
    """The value of an option that any command takes, which is removed from the command line; None where it is not there."""
    for k, argument in enumerate(sys.argv[1:], start=1):
        name, equals, value = argument.partition("=")
        end = k + (1 if equals else 2)
        if name == option and end <= len(sys.argv):
            value = value if equals else sys.argv[k + 1]
            sys.argv = [*sys.argv[:k], *sys.argv[end:]]
            return value
    return None


def _network(name: str | None) -> AbstractContextManager[None]:
    """Inside a `with`: models of a network of the user's own are made by the class of this name."""
    if name is None:
        return nullcontext()
    from undiffuse.models.file import network_class
    from undiffuse.networks.foreign import offered

    return offered(network_class(name))


def main() -> None:
    """The command `undiffuse`: runs one command, and turns errors into one sentence and an exit code."""
    debug = "--debug" in sys.argv
    tolerant(sys.stdout)
    tolerant(sys.stderr)
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    shared.NETWORK_CLASS = _without(shared.NETWORK_FLAG)
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    shared.FLAGS = {"network_class": shared.NETWORK_FLAG, **flags_of(app, sys.argv[1])}
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show(warnings.showwarning)
            with _network(shared.NETWORK_CLASS):
                code = app(prog_name="undiffuse", standalone_mode=False)
    except typer.Abort:
        sys.exit(FAILURE)
    except Exception as error:
        if debug:
            raise
        sentence, code = _sentence(error)
        if sentence is None:
            traceback.print_exc()
            sentence = "this is a fault of the program, not of yours; please report the lines above."
        typer.secho(f"undiffuse: {sentence}", fg="red", err=True)
    if code:
        sys.exit(code)


def _sentence(error: Exception) -> tuple[str | None, int]:
    """(what is wrong in one sentence, the exit code); no sentence for a fault of the program."""
    if hasattr(error, "format_message"):  # typer's own: options and arguments that it cannot read
        return _of_typer(error), WRONG_USE
    if not (isinstance(error, UsageError | Failure | OSError | MemoryError) or _out_of_memory(error)):
        return None, FAILURE
    text = " ".join(str(error).split()) or type(error).__name__
    return shared.with_flags(text), WRONG_USE if isinstance(error, UsageError) else FAILURE


def _of_typer(error: Any) -> str:
    """A sentence for what typer refuses: an option that is not there, a value that is none."""
    if name := getattr(error, "option_name", None):
        known = [option for param in error.ctx.command.params for option in param.opts] if error.ctx else []
        longer = sorted(
            (option for option in known if option.endswith(name.lstrip("-"))), key=len
        )  # --train-steps for --steps
        meant = [option for option in known if _setting(option) == _setting(name)]
        near = [*meant, *longer, *difflib.get_close_matches(name, known, 1)]
        return f"there is no option {name}{f': did you mean {near[0]}?' if near else '.'}"
    option = max(getattr(getattr(error, "param", None), "opts", None) or [""], key=len)
    message = getattr(error, "message", "").rstrip(".")
    if not option.startswith("-") or not message:
        return " ".join(error.format_message().split())
    if kind := re.search(r"valid (integer|number|float)", message):
        value = re.match(r"('.*') is not", message)
        message = f"takes a {'whole ' * (kind[1] == 'integer')}number{f', not {value[1]}' if value else ''}"
    return f"{option}{'' if message.startswith('takes') else ':'} {message}{'' if message.endswith('?') else '.'}"


def _setting(option: str) -> str:
    """What an option sets: --lr and --learning-rate are one, and so are --cfg-scale and --guidance."""
    name = option.lstrip("-").replace("-", "_")
    return ALIASES.get(name, name)


def _out_of_memory(error: Exception) -> bool:
    """Torch has an own error for a device, and a plain RuntimeError for the host."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate" in str(error)
