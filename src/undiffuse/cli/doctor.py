"""undiffuse doctor"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

import typer

PACKAGES = ("torch", "numpy", "pillow", "safetensors", "pydantic", "typer", "rich", "matplotlib")
OLDEST_PYTHON, OLDEST_TORCH = (3, 11), (2, 9)
LITTLE_DISK, LITTLE_MEMORY = 1e9, 2e9


def doctor() -> None:
    """Versions, devices, memory, and a one-line fix for whatever is wrong."""
    from undiffuse import __version__

    fixes: list[str] = []
    lines = [("undiffuse", __version__), ("python", f"{platform.python_version()} on {platform.platform()}")]
    if sys.version_info < OLDEST_PYTHON:
        fixes.append("Python is too old: make an environment with Python 3.11 or newer.")
    for package in PACKAGES:
        try:
            lines.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            lines.append((package, "missing"))
            fixes.append(f"{package} is missing: pip install {package}.")
    try:
        lines += _torch(fixes)
    except ImportError as error:
        fixes.append(f"torch cannot be imported ({error}): reinstall it.")
    free = shutil.disk_usage(Path.cwd()).free
    lines.append(("disk", f"{free / 1e9:.1f} GB free here"))
    if free < LITTLE_DISK:
        fixes.append("less than 1 GB of disk is free here: free some, or work in another folder.")
    lines.append(("this folder", "can be written" if os.access(Path.cwd(), os.W_OK) else "cannot be written"))
    if not os.access(Path.cwd(), os.W_OK):
        fixes.append("this folder cannot be written: work in another one, or give --runs FOLDER.")
    for name, value in lines:
        typer.echo(f"{name:>12}  {value}")
    typer.echo("")
    if not fixes:
        typer.echo("all is well.  next: undiffuse train digits")
        return
    for fix in fixes:
        typer.secho(f"fix: {fix}", fg="yellow")
    raise typer.Exit(1)


def _torch(fixes: list[str]) -> list[tuple[str, str]]:
    import torch

    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < OLDEST_TORCH:
        fixes.append("torch is too old: pip install 'torch>=2.9'.")
    lines = [
        (
            "cpu",
            f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        )
    ]
    memory = _available_memory()
    if memory is not None:
        lines.append(("memory", f"{memory / 1e9:.1f} GB available"))
        if memory < LITTLE_MEMORY:
            fixes.append(
                "less than 2 GB of memory is available: close other programs, or train with a smaller --batch-size and --width."
            )
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            half = "bf16" if torch.cuda.is_bf16_supported(False) else "no bf16"
            lines.append(
                (
                    f"cuda:{number}",
                    f"{torch.cuda.get_device_name(number)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, {half}",
                )
            )
    else:
        lines.append(
            (
                "cuda",
                "none: everything works on the CPU, slower"
                + ("" if torch.version.cuda else " (this torch is a CPU build)"),
            )
        )
    if torch.backends.mps.is_available():
        lines.append(
            ("mps", "Apple's GPU, used where --device mps asks for it; nobody has tried it yet, so say how it went")
        )
    return lines


def _available_memory() -> float | None:
    """Bytes, where the system says."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
