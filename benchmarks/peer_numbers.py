"""Runs k-diffusion's solvers on the exact mixture of the tests and writes down where they end, for ours to be tested against.

    pip install tqdm; pip install --no-deps k-diffusion==0.1.1.post1
    python -m benchmarks.peer_numbers

Its sampling.py alone is loaded; what it imports beyond torch, scipy, tqdm and torchdiffeq is replaced by empty modules, and its
random draws by this library's noise for (seed, example, step), so that stochastic solvers can be compared as well.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

import torch
from tests.sampling.mixtures import MIXTURE, POINTS, start, table

from undiffuse.process.levels import Level
from undiffuse.sampling.noise import Independent

STEPS = 8
OUT = Path(__file__).parents[1] / "tests" / "sampling" / "k_diffusion.json"


def sampling_module():
    """k_diffusion/sampling.py without the rest of the package."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None or found.submodule_search_locations is None:
        raise SystemExit("k-diffusion is not installed: pip install --no-deps k-diffusion==0.1.1.post1")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations)
    utils = types.ModuleType("k_diffusion.utils")
    vars(utils)["append_dims"] = lambda x, n: x[(...,) + (None,) * (n - x.ndim)]
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils, "torchsde": types.ModuleType("torchsde")}
    return importlib.import_module("k_diffusion.sampling")


def main() -> None:
    k = sampling_module()
    sigmas = table("edm", STEPS).sigma
    x, index = start("edm"), torch.arange(POINTS)
    noise = Independent(x, 0, index, STEPS)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return MIXTURE(x, Level(torch.ones_like(sigma), sigma, torch.zeros_like(sigma))).mean

    def draws(sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
        return noise.at(int((sigmas - sigma).abs().argmin()))

    runs = {
        "euler": k.sample_euler(model, x, sigmas, disable=True),
        "heun": k.sample_heun(model, x, sigmas, disable=True),
        "dpm_2": k.sample_dpm_2(model, x, sigmas, disable=True),
        "dpmpp_2m": k.sample_dpmpp_2m(model, x, sigmas, disable=True),
        "dpmpp_2s": k.sample_dpmpp_2s_ancestral(model, x, sigmas, disable=True, eta=0.0, noise_sampler=draws),
        "euler_ancestral": k.sample_euler_ancestral(model, x, sigmas, disable=True, noise_sampler=draws),
        "dpmpp_2m_sde": k.sample_dpmpp_2m_sde(
            model, x, sigmas, disable=True, eta=1.0, noise_sampler=draws, solver_type="midpoint"
        ),
        "dpmpp_2m_sde_half": k.sample_dpmpp_2m_sde(
            model, x, sigmas, disable=True, eta=0.5, noise_sampler=draws, solver_type="midpoint"
        ),
    } | {f"lms_{order}": k.sample_lms(model, x, sigmas, disable=True, order=order) for order in (1, 2, 3, 4)}
    OUT.write_text(json.dumps({name: end.tolist() for name, end in runs.items()}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {OUT}")


if __name__ == "__main__":
    main()
