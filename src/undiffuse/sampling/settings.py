"""The settings of sampling: data, frozen and validated.  Settings that contradict each other are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from undiffuse.errors import UsageError
from undiffuse.process.levels import Level
from undiffuse.process.schedules import Schedule
from undiffuse.sampling.grids import at_logsnrs, churned, ending_noisy, make_grid, refuse_settings, restarted
from undiffuse.sampling.guidance import GUIDANCE_METHODS, GuidanceMethod
from undiffuse.sampling.loop import NoiseKind
from undiffuse.sampling.solvers.base import Solver
from undiffuse.sampling.solvers.registry import Settings, make_solver, own_grid
from undiffuse.sampling.spacings import GridInterpolation, GridSettings


class SamplingConfig(BaseModel):
    """How a model samples.

    The defaults are the corrected Adams method in the angle, 16 steps and as many evaluations of the network, which is nearest to the exact
    flow.  What presets.py gives new models has the better score; docs/measurements has the numbers behind both.  Grids: sampling/grids.py
    and spacings.py; solvers: sampling/solvers/registry.py; guidance: sampling/guidance.py.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    solver: str = Field("adams", description="Solver, by name; 'undiffuse solvers' lists them.")
    grid: str = Field(
        "angle_beta",
        description="Spacing of the noise levels, by name, or a papers' spacing like 250 or ddim50; 'undiffuse solvers' "
        "lists them.",
    )
    steps: int = Field(16, ge=1, description="Sampler steps, at least 1.")
    logsnrs: tuple[float, ...] | None = Field(None, description="The log-SNR of every level, of the grid aligned.")
    sigma_max: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="sigma/alpha of the first level, above 0; the grid's own when left out.",
    )
    sigma_min: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="sigma/alpha of the last noisy level, 0 or more; the grid's own when left out.",
    )
    rho: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Exponent of the grids karras (7) and polyexponential (1), above 0.",
    )
    steps_offset: int | None = Field(
        None, ge=0, description="Added to every index of the grid leading, 0 or more; 1 in Stable Diffusion."
    )
    interpolation: GridInterpolation | None = Field(
        None, description="Levels between the indices of a discrete schedule: linear or log_linear in sigma/alpha."
    )
    final_sigma: Literal["zero", "schedule"] = Field(
        "zero", description="Where sampling ends: zero (the last step jumps to x̂) or schedule (its least noisy level)."
    )
    order: int | None = Field(None, description="Order of the solver, where it has several.")
    eta: float | None = Field(
        None, ge=0, le=1, description="Noise of ddim, dpm++_sde and sa: 0 none, 1 as much as ancestral sampling."
    )
    variance: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Variance of ddpm: 0 the small one, 1 the large one, in between interpolated; the model's own when left out.",
    )
    corrections: int | None = Field(
        None, ge=1, description="Langevin corrector steps at each level, of pc; at least 1."
    )
    lower_order_final: bool = Field(False, description="Take the last steps of a multistep solver at a lower order.")
    churn: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="EDM's S_churn: noise added before each step, in all by this much; 0 for none.",
    )
    churn_interval: tuple[float, float] | None = Field(
        None, description="EDM's S_tmin and S_tmax: add it only between these sigma/alpha."
    )
    s_noise: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="EDM's S_noise: what all added noise is multiplied by, such as 1.003.",
    )
    restart: tuple[float, float, Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="Restart sampling: lowest and highest sigma/alpha of the interval, and how often it is repeated.",
    )
    noise_sampler: NoiseKind = Field(
        "independent",
        description="Noise of stochastic solvers: independent, or brownian (the same path for any number of steps).",
    )
    guidance: FiniteFloat = Field(
        1.0,
        description="Guidance scale w of classifier-free guidance: 1 plain conditional, 0 unconditional, above 1 stronger.",
    )
    guidance_scales: dict[str, FiniteFloat] | None = Field(
        None, description="Guidance scales of single conditions, by name; guidance is that of the others."
    )
    guidance_method: Annotated[str, AfterValidator(GUIDANCE_METHODS.checked)] = Field(
        "cfg",
        description="How guidance extrapolates: cfg (classifier-free guidance), apg or cfg++ (with a guidance of 0 to 1).",
    )
    guidance_rescale: float = Field(
        0.0, ge=0, le=1, description="Rescale against too much contrast, of cfg: 0 none to 1 in full."
    )
    apg_momentum: float = Field(
        0.0, gt=-1, lt=1, description="APG's beta, between -1 and 1, such as -0.5: the share of earlier steps."
    )
    apg_norm_threshold: float | None = Field(
        None, gt=0, description="APG's r: the longest difference that guides, above 0."
    )
    guidance_interval: tuple[float, float] | None = Field(
        None, description="Guide only between these sigma/alpha: lowest and highest."
    )
    clip: Literal["range", "dynamic", "none"] = Field(
        "range", description="Clip x̂ to the data's range, by dynamic thresholding, or none."
    )
    threshold_quantile: float = Field(
        0.995,
        gt=0,
        le=1,
        description="Dynamic thresholding: the quantile of |x̂| that becomes the end of the range, above 0 up to 1.",
    )
    threshold_max: float | None = Field(
        None,
        ge=1,
        allow_inf_nan=False,
        description="Dynamic thresholding: the most that quantile may be, at least 1, the end of the range; no limit when "
        "left out.",
    )
    epsilon_from: Literal["clipped", "unclipped"] = Field(
        "clipped",
        description="Which x̂ the direction to x_t is taken from: clipped (OpenAI's code) or unclipped (diffusers).",
    )

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
        method = GUIDANCE_METHODS[self.guidance_method]
        for owner, entry in GUIDANCE_METHODS.items():
            foreign = [name for name in entry.settings if name not in method.settings and _is_set(self, name)]
            if foreign:
                verb = "belong" if len(entry.settings) > 1 else "belongs"
                raise UsageError(
                    f"{' and '.join(entry.settings)} {verb} to the method {owner} of guidance, not to {self.guidance_method!r}: leave one out."
                )
        if self.guidance_scales and (self.guidance_method != "cfg" or self.guidance_rescale):
            raise UsageError("scales for each condition belong to the method cfg, without rescaling: leave one out.")
        low, high = method.bounds
        if not low <= self.guidance <= high:
            raise UsageError(
                f"the guidance of the method {self.guidance_method} lies between {low:g} and {high:g}, but is {self.guidance:g}: "
                f"try {low + 0.6 * (high - low):g}."
            )
        if (
            self.unguided
            and not self.guidance_scales
            and (self.guidance_interval or any(_is_set(self, name) for name in method.settings))
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

    @property
    def unguided(self) -> bool:
        """Whether samples are plainly conditional ones, as far as `guidance` says."""
        return self.guidance == 1 and GUIDANCE_METHODS[self.guidance_method].plain_at_one

    def build_guidance(self) -> GuidanceMethod:
        """The method of guidance with its scale and settings."""
        method = GUIDANCE_METHODS[self.guidance_method]
        return method.make(
            scale=self.guidance, **{argument: getattr(self, name) for name, argument in method.settings.items()}
        )

    def build_solver(self, schedule: Schedule) -> Solver:
        """The solver with its settings. Raises UsageError for settings that it does not have or that contradict each other."""
        solver = make_solver(
            self.solver,
            Settings(self.order, self.eta, self.variance, self.corrections, self.lower_order_final),
            schedule,
        )
        if solver.without_jumps and (
            GUIDANCE_METHODS[self.guidance_method].keeps_noise
            or (self.epsilon_from == "unclipped" and self.clip != "none")
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


def _is_set(config: SamplingConfig, name: str) -> bool:
    return bool(getattr(config, name) != SamplingConfig.model_fields[name].default)


def defaults(*names: str) -> dict[str, Any]:
    """Settings by name, with their default values."""
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


def completed(stored: SamplingConfig, requested: Mapping[str, Any]) -> dict[str, Any]:
    """The settings `requested` in place of a model's own, with what they leave open.

    Another solver than the model's takes none of the settings of that one, and brings a grid where it needs one (see
    registry.py).  Another grid than the model's takes none of the ends, or fitted levels, of that one.  What is named is obeyed.
    """
    left: dict[str, Any] = {}
    solver, grid = requested.get("solver", stored.solver), requested.get("grid")
    if solver != stored.solver:
        left |= OWN_SOLVER
        grid = grid or own_grid(solver)
    if (
        grid is None and stored.logsnrs is not None and "steps" in requested
    ):  # levels that were fitted are as many as they are
        grid = SamplingConfig().grid
    if grid not in (None, stored.grid):
        left |= OWN_ENDS | {"logsnrs": None, "grid": grid}
    if requested.get("clip", stored.clip) != stored.clip:
        left |= OWN_THRESHOLD
    return left | dict(requested)
