"""Every solver by name: what it is, its order, and which settings it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from undiffuse.errors import UsageError
from undiffuse.process.schedules import Schedule
from undiffuse.registry import Registry
from undiffuse.sampling.solvers.adaptive import Adaptive
from undiffuse.sampling.solvers.ancestral import DDIM, LCM, Ancestral
from undiffuse.sampling.solvers.base import Solver
from undiffuse.sampling.solvers.exponential import Heun, Multistep, Singlestep
from undiffuse.sampling.solvers.forms import (
    EPS_FORM,
    FLOW,
    FLOW_TIME,
    LOGSNR,
    RATIO,
    ROW,
    Rule,
    angle_coordinate,
    angle_form,
    clean,
)
from undiffuse.sampling.solvers.langevin import Langevin


@dataclass(frozen=True)
class Settings:
    """The settings of solvers; None for a solver's own.

    order: of its polynomials.   eta: noise, 0 none to 1 as much as ancestral sampling.   variance: of `ddpm`, None for
    the model's own, else 0 small to 1 large.   corrections: Langevin steps at each level.   lower_order_final: of multistep solvers.
    """

    order: int | None = None
    eta: float | None = None
    variance: float | None = None
    corrections: int | None = None
    lower_order_final: bool = False


@dataclass(frozen=True)
class _Chosen:
    """Settings with nothing left open; a solver reads those that it has."""

    order: int
    eta: float = 0.0
    variance: float | None = None
    corrections: int = 1


@dataclass(frozen=True)
class Entry:
    """orders: that it has, the default first.   has: the other settings, with their defaults.

    grid: the one it takes where it is named without one; None where any does.  A method of second order whose polynomial is in
    sigma/alpha or log-SNR, and which has no steps behind it to start from, leaps from pure noise: its first step must be a short one.
    """

    what: str
    make: Callable[[_Chosen, Schedule], Solver]
    orders: tuple[int, ...] = (1,)
    has: Mapping[str, float | None] = field(default_factory=dict)
    grid: str | None = None


def _published(order: int) -> Rule:
    """The rule of the published second-order multistep solvers; those of third order integrate exactly."""
    return "midpoint" if order == 2 else "exact"


_KNOWN: dict[str, Entry] = {
    "ddpm": Entry("ancestral sampling (Ho 2020)", lambda s, _: Ancestral(s.variance), has={"variance": None}),
    "ddim": Entry("DDIM (Song 2021)", lambda s, _: DDIM(s.eta), has={"eta": 0.0}),
    "euler": Entry("Euler in sigma/alpha, the steps of DDIM", lambda s, _: Multistep(EPS_FORM, RATIO, 1)),
    "euler_ancestral": Entry("Euler with the ancestral split, the steps of DDIM at eta 1", lambda s, _: DDIM(1.0)),
    "lcm": Entry("x̂ noised anew at every step, for models of few steps (Song 2023; Luo 2023)", lambda s, _: LCM()),
    "flow": Entry(
        "Euler, Adams-Bashforth in the time of rectified flow (Lipman 2023)",
        lambda s, _: Multistep(FLOW, FLOW_TIME, s.order),
        (1, 2, 3),
    ),
    "heun": Entry("Heun in the angle", lambda s, _: Heun(angle_form(), angle_coordinate()), (2,)),
    "edm": Entry(
        "EDM's Heun, in sigma/alpha; stochastic with churn (Karras 2022)",
        lambda s, _: Heun(EPS_FORM, RATIO),
        (2,),
        grid="karras",
    ),
    "dpm2": Entry(
        "the midpoint method, dpm_single of order 2 (k-diffusion)",
        lambda s, _: Singlestep(EPS_FORM, LOGSNR, 2, "midpoint"),
        (2,),
        grid="karras",
    ),
    "lms": Entry(
        "Adams-Bashforth in sigma/alpha (k-diffusion)", lambda s, _: Multistep(EPS_FORM, RATIO, s.order), (4, 1, 2, 3)
    ),
    "plms": Entry(
        "pseudo linear multistep of PNDM (Liu 2022)", lambda s, _: Multistep(EPS_FORM, ROW, s.order), (4, 1, 2, 3)
    ),
    "deis": Entry(
        "eps a polynomial in time (Zhang & Chen 2023)",
        lambda s, _: Multistep(EPS_FORM, angle_coordinate(), s.order),
        (3, 1, 2, 4),
    ),
    "dpm": Entry(
        "DPM-Solver (Lu 2022)", lambda s, _: Multistep(EPS_FORM, LOGSNR, s.order, _published(s.order)), (2, 1, 3)
    ),
    "dpm_single": Entry(
        "DPM-Solver, in blocks",
        lambda s, _: Singlestep(EPS_FORM, LOGSNR, s.order, _published(s.order)),
        (2, 1, 3),
        grid="karras",
    ),
    "dpm++": Entry(
        "DPM-Solver++ 2M, 3M (Lu 2022)",
        lambda s, _: Multistep(clean(), LOGSNR, s.order, _published(s.order)),
        (2, 1, 3),
    ),
    "dpm++_single": Entry(
        "DPM-Solver++ 2S, 3S, in blocks",
        lambda s, _: Singlestep(clean(s.eta), LOGSNR, s.order, _published(s.order)),
        (2, 1, 3),
        {"eta": 0.0},
    ),
    "dpm++_sde": Entry(
        "DPM-Solver++ 2M, 3M of the SDE",
        lambda s, _: Multistep(clean(s.eta), LOGSNR, s.order, _published(s.order)),
        (2, 1, 3),
        {"eta": 1.0},
    ),
    "unipc": Entry(
        "predictor and corrector (Zhao 2023)",
        lambda s, _: Multistep(clean(), LOGSNR, s.order, _published(s.order), True),
        (2, 1, 3),
    ),
    "sa": Entry(
        "stochastic Adams (Xue 2023)",
        lambda s, _: Multistep(clean(s.eta), LOGSNR, s.order, "exact", True),
        (2, 1, 3),
        {"eta": 1.0},
    ),
    "adams": Entry(
        "velocity a polynomial in the angle, corrected",
        lambda s, _: Multistep(angle_form(), angle_coordinate(), s.order, "exact", True),
        (3, 1, 2),
    ),
    "pc": Entry(
        "ancestral and Langevin steps (Song 2021)",
        lambda s, _: Langevin(Ancestral(0.0), s.corrections),
        has={"corrections": 1},
    ),
    "adaptive": Entry(
        "Dormand-Prince with step-size control (torchdiffeq)", lambda s, schedule: Adaptive(schedule), (5,)
    ),
}
SOLVERS: Registry[Entry] = Registry("solver", "undiffuse.solvers", _KNOWN)
EVEN_IN_LOG = ("karras", "logsnr", "exponential", "polyexponential")  # grids that solvers in sigma/alpha are made for
SOLVER_SETTINGS = ("eta", "variance", "corrections")


def register_solver(
    name: str,
    make: Callable[..., Solver],
    *,
    orders: Sequence[int] | None = None,
    settings: Mapping[str, float | None] | None = None,
    grid: str | None = None,
    what: str | None = None,
) -> None:
    """Makes a solver of one's own known as `name`, to `model.sample(solver=name)`.

    make: a subclass of Solver, or a function that returns a solver.  It is called with what is declared here, by name, and with nothing
    else: order=… where there are `orders`, and each of `settings`.
    orders: those that it has, the default first.   settings: of eta, variance and corrections those it has, with their defaults.
    grid: the one it takes where it is named without one.   what: a few words for the list of solvers; its docstring's first line when None.
    Raises UsageError for a name that is taken, or a setting that solvers do not have.
    """
    has = dict(settings or {})
    unknown = [setting for setting in has if setting not in SOLVER_SETTINGS]
    if unknown:
        raise UsageError(f"solvers have no setting {unknown[0]!r}: declare some of {', '.join(SOLVER_SETTINGS)}.")

    def made(chosen: _Chosen, schedule: Schedule) -> Solver:
        order = {} if orders is None else {"order": chosen.order}
        return make(**order, **{setting: getattr(chosen, setting) for setting in has})

    summary = what or (make.__doc__ or name).strip().splitlines()[0]
    SOLVERS.register(name, Entry(summary, made, tuple(orders or (1,)), has, grid), make)


def own_grid(name: str) -> str | None:
    """The grid that the solver called `name` brings, None where any suits it."""
    entry = SOLVERS.find(name)
    return None if entry is None else entry.grid


def grid_note(solver: str, grid: str | None, usual: str) -> str | None:
    """What to know of the grid of a solver: that it brings its own, where none is named, or that the one that is named may not suit it.

    usual: the solver that would be used otherwise, of which nothing is new.   None where there is nothing to say.
    """
    own = own_grid(solver)
    if own is not None and grid not in (None, *EVEN_IN_LOG):
        made_for = f"levels that are dense at little noise, as those of {own}"
        return f"{solver} is made for {made_for}; on the grid {grid} its samples may be noise"
    return f"{solver} samples on the grid {own}, which suits it" if own and grid is None and solver != usual else None


def make_solver(name: str, settings: Settings, schedule: Schedule) -> Solver:
    """The solver called `name`. Raises UsageError for an unknown name, or a setting that this solver does not have."""
    entry = SOLVERS[name]
    chosen = dict[str, Any](entry.has)
    for setting, value in vars(settings).items():
        if setting in ("order", "lower_order_final") or value is None or (setting not in entry.has and not value):
            continue
        if setting not in entry.has:
            owners = ", ".join(repr(other) for other, e in SOLVERS.items() if setting in e.has)
            raise UsageError(
                f"{setting} = {value} is a setting of the solvers {owners}, and {name!r} has none: leave it out."
            )
        chosen[setting] = value
    order = entry.orders[0] if settings.order is None else settings.order
    if order not in entry.orders:
        raise UsageError(
            f"the solver {name!r} has the orders {', '.join(map(str, sorted(entry.orders)))}, not {order}."
        )
    solver = entry.make(_Chosen(order, **chosen), schedule)
    if not settings.lower_order_final:
        return solver
    if not isinstance(solver, Multistep):
        raise UsageError(
            f"lower_order_final is a setting of solvers that look back at several steps, and {name!r} does not: leave it out."
        )
    return replace(solver, lower_order_final=True)
