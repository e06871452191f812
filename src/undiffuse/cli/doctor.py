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
    _line("undiffuse", __version__)
    _line("python", f"{platform.python_version()} on {platform.platform()}")
    if sys.version_info < OLDEST_PYTHON:
        fixes.append("Python is too old: make an environment with Python 3.11 or newer.")
    for package in PACKAGES:
        try:
            _line(package, metadata.version(package))
        except metadata.PackageNotFoundError:
            _line(package, "missing")
            fixes.append(f"{package} is missing: pip install {package}.")
    try:
        fixes += _torch()
    except ImportError as error:
        fixes.append(f"torch cannot be imported ({error}): reinstall it.")
    free, writable = shutil.disk_usage(Path.cwd()).free, os.access(Path.cwd(), os.W_OK)
    _line("disk", f"{free / 1e9:.1f} GB free here")
    _line("this folder", "can be written" if writable else "cannot be written")
    if free < LITTLE_DISK:
        fixes.append("less than 1 GB of disk is free here: free some, or work in another folder.")
    if not writable:
        fixes.append("this folder cannot be written: work in another one, or give --runs FOLDER.")
    typer.echo("")
    for fix in fixes:
        typer.secho(f"fix: {fix}", fg="yellow")
    if fixes:
        raise typer.Exit(1)
    typer.echo("all is well.  next: undiffuse train digits")


def _line(name: str, value: str) -> None:
    typer.echo(f"{name:>12}  {value}")


def _torch() -> list[str]:
    """Prints what torch can use here; returns the fixes."""
    import torch

    fixes = []
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < OLDEST_TORCH:
        fixes.append("torch is too old: pip install 'torch>=2.9'.")
    threads, instructions = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    _line("cpu", f"{os.cpu_count()} cores, torch uses {threads} threads, {instructions}")
    memory = _available_memory()
    if memory is not None:
        _line("memory", f"{memory / 1e9:.1f} GB available")
        if memory < LITTLE_MEMORY:
            few = "less than 2 GB of memory is available"
            fixes.append(f"{few}: close other programs, or train with a smaller --batch-size and --width.")
    for k in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(k)
        half = "bf16" if torch.cuda.is_bf16_supported(False) else "no bf16"
        _line(f"cuda:{k}", f"{torch.cuda.get_device_name(k)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, {half}")
    if not torch.cuda.is_available():
        build = "" if torch.version.cuda else " (this torch is a CPU build)"
        _line("cuda", f"none: everything works on the CPU, slower{build}")
    if torch.backends.mps.is_available():
        _line("mps", "Apple's GPU, used where --device mps asks for it; nobody has tried it yet, so say how it went")
    return fixes


def _available_memory() -> float | None:
    """Bytes, where the system says."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
