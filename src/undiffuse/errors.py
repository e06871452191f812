"""What goes wrong through no fault of the program, so that one sentence can say it.

Anything else that is raised is a fault of undiffuse or of a library: it keeps its traceback.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Iterable
from typing import Any

ALIASES = {  # what other programs call settings, where that is not near enough to be found
    "lr": "learning_rate",
    "epochs": "steps",
    "iterations": "steps",
    "num_steps": "steps",
    "max_steps": "steps",
    "num_inference_steps": "steps",
    "cfg_scale": "guidance",
    "guidance_scale": "guidance",
    "sampler": "solver",
    "scheduler": "schedule",
    "wd": "weight_decay",
    "gradient_accumulation_steps": "accumulate",
    "grad_clip": "clip",
    "max_grad_norm": "clip",
}


class UsageError(ValueError):
    """A setting, a file or data that cannot be used. The message is one sentence, with the fix."""


class Failure(RuntimeError):
    """What was requested is right, but cannot be done here and now. The message is one sentence, with what to do."""


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a sentence about a misspelt name: ": did you mean 'steps'?", and nothing where no name is near.

    Of dotted paths, the last parts are compared.
    """
    known = {each.rpartition(".")[2]: each for each in names}
    found = difflib.get_close_matches(name.rpartition(".")[2], known, 1)
    return f": did you mean {known[found[0]]!r}?" if found else ""


def explained(error: Any) -> str:
    """The first problem of a pydantic ValidationError, as a sentence."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ").removesuffix(".")
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"there is no setting {place!r}."
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        message += nearest(first["input"], re.findall(r"'([^']+)'", first["ctx"]["expected"])).removesuffix("?")
    return (
        f"{place}: {message} (it is {first['input']!r})." if place and first["type"] != "value_error" else f"{message}."
    )


def unknown_setting(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A sentence about a setting that there is none of, which names the nearest of the known ones, or all of them."""
    names = list(known)
    meant = [prefix + ALIASES[name]] if ALIASES.get(name) in names else []
    near = f": did you mean {meant[0]!r}?" if meant else nearest(name, [prefix + each for each in names])
    return f"there is no setting {(prefix + name)!r}" + (near or f": choose one of {', '.join(names)}.")


def whole(value: Any, what: str) -> int:
    """A whole number of Python, NumPy or torch. Raises UsageError for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{what} is a whole number, and not {value!r}.") from None
