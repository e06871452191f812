"""What sampling can be told: data, frozen and validated.  Settings that contradict each other are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from undiffuse.errors import UsageError
from undiffuse.process.levels import Level
from undiffuse.process.schedules import Schedule
from undiffuse.sampling.grids import at_logsnrs, churned, ending_noisy, make_grid, refuse_settings, restarted
from undiffuse.sampling.loop import NoiseKind
from undiffuse.sampling.solvers.base import Solver
from undiffuse.sampling.solvers.registry import Settings, make_solver, own_grid
from undiffuse.sampling.spacings import GridInterpolation, GridSettings


class SamplingConfig(BaseModel):
    """How a model samples when nothing else is said: by default 16 steps, and evaluations of the network, of the corrected
    Adams method in the angle, nearest to the exact flow.  What presets.py gives new models has the better score; docs/measurements/solvers.md
    has the measurements behind both.

    grid, steps: see sampling/grids.py; grid "aligned" has `logsnrs`, its levels.   sigma_max, sigma_min: sigma/alpha of the
    grid's first and of its last noisy level, None for the grid's own; rho, steps_offset, interpolation: see sampling/spacings.py.
    final_sigma: "zero", where the last step jumps to x̂, or "schedule", the schedule's least noisy level.   order, eta, variance, corrections: of
    the solver, None for its own; see sampling/solvers/registry.py.   lower_order_final: of multistep solvers, the last steps at a lower
    order.   churn, churn_interval, s_noise: EDM's S_churn, total over the grid, (S_tmin, S_tmax), and S_noise, which multiplies all noise
    of going back up.   restart: (low, high, times), the stretch of sigma/alpha to walk again.   noise: "brownian" is the same for any grid.
    guidance: 1 plain conditional, 0 unconditional.   guidance_scales: of conditions by name, `guidance` of the others.
    guidance_method: cfg (classifier-free guidance), apg or cfg++ (guidance in [0, 1]);   guidance_rescale: of cfg;
    apg_momentum, apg_norm_threshold: of apg, the paper's beta (below 0) and r;
    guidance_interval: of sigma/alpha; see sampling/guidance.py.
    clip: of x̂: "range" of the data, "dynamic", "none".   threshold_quantile, threshold_max: of dynamic thresholding, the quantile of
    |x̂| that is brought to the end of the range, and the most it may be, in such ends (diffusers: sample_max_value); None for any.
    epsilon_from: which x̂ the noise that is walked with comes from, the clipped one (OpenAI's code) or the unclipped one (diffusers'); not of ddpm,
    whose steps are made of x̂ and x_t there too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    solver: str = "adams"
    grid: str = "angle_beta"
    steps: int = Field(16, ge=1)
    logsnrs: tuple[float, ...] | None = None
    sigma_max: float | None = Field(None, gt=0, allow_inf_nan=False)
    sigma_min: float | None = Field(None, ge=0, allow_inf_nan=False)
    rho: float | None = Field(None, gt=0, allow_inf_nan=False)
    steps_offset: int | None = Field(None, ge=0)
    interpolation: GridInterpolation | None = None
    final_sigma: Literal["zero", "schedule"] = "zero"
    order: int | None = None
    eta: float | None = Field(None, ge=0, le=1)
    variance: float | None = Field(None, ge=0, le=1)
    corrections: int | None = Field(None, ge=1)
    lower_order_final: bool = False
    churn: float = Field(0.0, ge=0, allow_inf_nan=False)
    churn_interval: tuple[float, float] | None = None
    s_noise: float = Field(1.0, gt=0, allow_inf_nan=False)
    restart: tuple[float, float, Annotated[int, Field(ge=1)]] | None = None
    noise: NoiseKind = "independent"
    guidance: FiniteFloat = 1.0
    guidance_scales: dict[str, FiniteFloat] | None = None
    guidance_method: Literal["cfg", "apg", "cfg++"] = "cfg"
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    apg_momentum: float = Field(0.0, gt=-1, lt=1)
    apg_norm_threshold: float | None = Field(None, gt=0)
    guidance_interval: tuple[float, float] | None = None
    clip: Literal["range", "dynamic", "none"] = "range"
    threshold_quantile: float = Field(0.995, gt=0, le=1)
    threshold_max: float | None = Field(None, ge=1, allow_inf_nan=False)
    epsilon_from: Literal["clipped", "unclipped"] = "clipped"

    @model_validator(mode="after")
    def _grid_of_levels(self) -> SamplingConfig:
        if (self.grid == "aligned") != (self.logsnrs is not None):
            raise UsageError("the grid 'aligned' and a list of log-SNRs go together: give both or neither.")
        return self

    @model_validator(mode="after")
    def _grid_that_falls(self) -> SamplingConfig:
        if self.sigma_max is not None and self.sigma_min is not None and self.sigma_min >= self.sigma_max:
            raise UsageError(
                f"a grid falls from sigma_max to sigma_min, not from {self.sigma_max:g} to {self.sigma_min:g}: swap them."
            )
        return self

    @model_validator(mode="after")
    def _noise_of_going_back_up(self) -> SamplingConfig:
        if self.churn_interval is not None and not (
            self.churn and 0 <= self.churn_interval[0] < self.churn_interval[1] < math.inf
        ):
            raise UsageError(
                "a churn interval belongs to a churn, and goes from a lower to a higher sigma/alpha, a number: change or leave it out."
            )
        if self.s_noise != 1 and not self.churn and not self.restart:
            raise UsageError(
                "s_noise multiplies the noise of going back up, and nothing does: give a churn or a restart, or leave it out."
            )
        return self

    @model_validator(mode="after")
    def _one_clipping(self) -> SamplingConfig:
        if self.clip != "dynamic" and any(getattr(self, name) != value for name, value in OWN_THRESHOLD.items()):
            raise UsageError(
                f"threshold_quantile and threshold_max belong to clip 'dynamic', not to {self.clip!r}: leave them out."
            )
        return self

    @model_validator(mode="after")
    def _one_guidance(self) -> SamplingConfig:
        if self.guidance_rescale and self.guidance_method != "cfg":
            raise UsageError(
                f"guidance_rescale belongs to the method 'cfg' of guidance, not to {self.guidance_method!r}: leave one out."
            )
        if (self.apg_momentum or self.apg_norm_threshold is not None) and self.guidance_method != "apg":
            raise UsageError(
                f"apg_momentum and apg_norm_threshold belong to the method apg, not to {self.guidance_method!r}: leave them out."
            )
        if self.guidance_scales and (self.guidance_method != "cfg" or self.guidance_rescale):
            raise UsageError("scales for each condition belong to the method cfg, without rescaling: leave one out.")
        if self.guidance_method == "cfg++" and not 0 <= self.guidance <= 1:
            raise UsageError(
                f"the guidance of the method cfg++ lies between 0 and 1, but is {self.guidance:g}: try 0.6."
            )
        if (
            self.guidance == 1
            and not self.guidance_scales
            and self.guidance_method != "cfg++"
            and (self.guidance_rescale or self.guidance_interval or self.apg_momentum or self.apg_norm_threshold)
        ):
            raise UsageError(
                "guidance 1 guides nothing, so there is nothing to rescale, shorten or keep in an interval: give another guidance."
            )
        if self.guidance_interval is not None and not 0 <= self.guidance_interval[0] < self.guidance_interval[1]:
            raise UsageError(
                "a guidance interval goes from a lower to a higher sigma/alpha, none below 0: swap or change them."
            )
        if self.guidance_interval is not None and math.isinf(self.guidance_interval[1]):
            raise UsageError(
                "a guidance interval ends at a number, for it is written into files: 1000000 is above any level."
            )
        return self

    def build_solver(self, schedule: Schedule) -> Solver:
        solver = make_solver(
            self.solver,
            Settings(self.order, self.eta, self.variance, self.corrections, self.lower_order_final),
            schedule,
        )
        if solver.without_jumps and (
            self.guidance_method == "cfg++" or (self.epsilon_from == "unclipped" and self.clip != "none")
        ):
            raise UsageError(solver.without_jumps)
        return solver

    def build_levels(self, schedule: Schedule) -> Level:
        """The table of levels to visit."""
        settings = GridSettings(self.sigma_max, self.sigma_min, self.rho, self.steps_offset, self.interpolation)
        if self.logsnrs is None:
            levels = make_grid(schedule, self.grid, self.steps, settings)
        else:
            refuse_settings(self.grid, settings)
            levels = at_logsnrs(schedule, self.logsnrs)
        if self.final_sigma == "schedule":
            levels = ending_noisy(schedule, levels)
        if self.restart:
            levels = restarted(levels, *self.restart)
        return (
            churned(schedule, levels, self.churn, *(self.churn_interval or (0.0, math.inf))) if self.churn else levels
        )


def defaults(*names: str) -> dict[str, Any]:
    """Settings by name, each as it is when nothing is said."""
    return {name: SamplingConfig.model_fields[name].default for name in names}


UNGUIDED = defaults(
    "guidance",
    "guidance_scales",
    "guidance_method",
    "guidance_rescale",
    "guidance_interval",
    "apg_momentum",
    "apg_norm_threshold",
)
OWN_ENDS = defaults("sigma_max", "sigma_min", "rho", "steps_offset", "interpolation", "final_sigma")
"""The settings of a grid that places its own levels, as it has them itself."""
OWN_SOLVER = defaults("order", "eta", "variance", "corrections", "lower_order_final")
ONE_WAY = defaults("churn", "churn_interval", "s_noise", "restart")
"""A grid that never goes back up."""
OWN_THRESHOLD = defaults("threshold_quantile", "threshold_max")


def completed(stored: SamplingConfig, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The settings `wanted` in place of a model's own, with what they leave open.

    Another solver than the model's takes none of the settings of that one, and brings a grid where it needs one (see
    registry.py).  Another grid than the model's takes none of the ends, or fitted levels, of that one.  What is named is obeyed.
    """
    left: dict[str, Any] = {}
    solver, grid = wanted.get("solver", stored.solver), wanted.get("grid")
    if solver != stored.solver:
        left |= OWN_SOLVER
        grid = grid or own_grid(solver)
    if (
        grid is None and stored.logsnrs is not None and "steps" in wanted
    ):  # levels that were fitted are as many as they are
        grid = SamplingConfig().grid
    if grid not in (None, stored.grid):
        left |= OWN_ENDS | {"logsnrs": None, "grid": grid}
    if wanted.get("clip", stored.clip) != stored.clip:
        left |= OWN_THRESHOLD
    return left | dict(wanted)
