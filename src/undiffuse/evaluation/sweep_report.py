"""What a sweep found, as lines of a table and as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from undiffuse.evaluation.jackknife import Estimate
from undiffuse.evaluation.sweep import EACH_DIRECTION, Sweep, Tried

Point = tuple[str, str, int, float]
"""(solver, grid, evaluations, distance)."""


def sweep_table(swept: Sweep, flow: Tried | None, score: Tried | None, kinds: tuple[str, str]) -> list[str]:
    """The front, cheapest first, and what scores best; notes below.

    flow, score: the recommended settings.   kinds: of examples, those scored against and those of the floor.
    """
    rows = swept.front()
    if score is not None and score not in rows:
        rows = sorted([*rows, score], key=lambda t: t.evaluations)
    lines = [
        f"{'solver':14} {'grid':12} {'last level':>10} {'evaluations':>11} {'seconds':>8} {'to the flow':>12} {'score':>18}"
    ]
    for tried in rows:
        how = tried.sampling
        last = "own" if how.sigma_min is None else f"{how.sigma_min:g}"
        near = "-" if tried.to_reference is None else f"{tried.to_reference:.4g}"
        marks = [words for words, best in (("near enough to the flow", flow), ("by score", score)) if tried is best]
        lines.append(
            f"{how.solver:14} {how.grid:12} {last:>10} {tried.evaluations:11d} {tried.seconds:8.2f} {near:>12} {_text(tried.score):>18}"
            + (f"   <- recommended: {' and '.join(marks)}" if marks else "")
        )
    if score is None:
        return lines
    floor = f"{_text(swept.floor)}, of {swept.n} {kinds[1]}" if swept.floor else "-, too few examples to spare"
    lines += [
        f"score: Fréchet distance to {swept.compared:,} {kinds[0]} in {swept.directions} random directions, less is better",
        f"floor: {floor}",
    ]
    if swept.few:
        lines.append(
            f"note: {swept.compared:,} examples are few to score against, and may not separate settings: "
            f"{EACH_DIRECTION * swept.directions} or more, which can be named after the run, say more"
        )
    return lines


def sweep_numbers(swept: Sweep, best: Mapping[str, Tried | None], by: str, tolerance: float) -> dict[str, Any]:
    """Everything as plain data; errors of scores of too few samples are NaN.

    best: the recommended setting by each way to recommend.   by: the way that was chosen.
    """
    recommended = {name: _row(tried) if tried else None for name, tried in best.items()}
    return {
        "n": swept.n,
        "reference_evaluations": swept.reference,
        "tolerance": tolerance,
        "unit": "median rms per number, of values from -1 to 1",
        "floor": _numbers(swept.floor),
        "by": by,
        "recommended": recommended[by],
        "recommended_by": recommended,
        "front": [_row(tried) for tried in swept.front()],
        "tried": [_row(tried) for tried in swept.tried],
    }


def sweep_points(swept: Sweep, chosen: Tried | None) -> tuple[list[Point], list[Point], list[Point], Point | None]:
    """What pictures.pareto draws: the distances to the flow, those to real examples, the front, and the chosen setting."""
    flow = [_point(tried, tried.to_reference) for tried in swept.tried if tried.to_reference is not None]
    data = [_point(tried, tried.score.value) for tried in swept.tried if tried.score is not None]
    front = [_point(tried, tried.to_reference) for tried in swept.front() if tried.to_reference is not None]
    near = None if chosen is None or chosen.to_reference is None else _point(chosen, chosen.to_reference)
    return flow, data, front, near


def _point(tried: Tried, distance: float) -> Point:
    return tried.sampling.solver, tried.sampling.grid, tried.evaluations, distance


def _row(tried: Tried) -> dict[str, Any]:
    names = ("solver", "grid", "steps", "sigma_min", "logsnrs", "guidance")
    return {name: getattr(tried.sampling, name) for name in names} | {
        "evaluations": tried.evaluations,
        "seconds": round(tried.seconds, 4),
        "to_reference": tried.to_reference,
        **_numbers(tried.score),
    }


def _numbers(score: Estimate | None) -> dict[str, float | None]:
    return (
        {"to_data": None, "to_data_error": None}
        if score is None
        else {"to_data": score.value, "to_data_error": score.error}
    )


def _text(score: Estimate | None) -> str:
    return "-" if score is None else f"{score.value:.4g} ± {score.error:.2g}" if score.without else f"{score.value:.4g}"
