"""Tables of numbers and categories: do samples serve in place of real rows, and are they copies?

    python -m benchmarks.tables [SET …] [--seeds 3] [--steps N]       wine, breast_cancer, diabetes, fair, anes96

Half of the rows are trained on, the others are never seen.  A gradient-boosted tree is trained on as many samples as there are training rows,
and, beside it, on these themselves; both are tested on the unseen half (train on synthetic, test on real).  `nearer to training` is the share
of samples whose nearest real row is one that was trained on, where copies make more than 50 %, and worse ones than the unseen rows less.
Needs scikit-learn and statsmodels, whose data sets these are.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import undiffuse
from benchmarks.common import machine, table, write
from undiffuse.data.table_schema import TableSchema

DRAWS = 3  # sets of samples of one model
OCCUPATIONS = ("student", "farming", "white-collar", "teacher", "managerial", "professional")
FEELINGS = ("very poor", "poor", "fair", "good", "very good")


def of_sklearn(name: str) -> tuple[Any, str]:
    """(a frame, its target) of scikit-learn."""
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")(as_frame=True)
    frame = found.frame.rename(columns={"target": "outcome"})
    if name != "diabetes":
        frame["outcome"] = [str(found.target_names[k]) for k in frame["outcome"]]
    return frame, "outcome"


def fair() -> tuple[Any, str]:
    """Fair's survey of marriages (1978), as names where its numbers are codes: numbers, categories and a truth value."""
    import statsmodels.api as sm

    raw = sm.datasets.fair.load_pandas().data
    frame = raw[["age", "yrs_married", "children", "educ"]].copy()
    frame["educ"] = frame["educ"].astype(int)
    frame["marriage"] = [FEELINGS[int(k) - 1] for k in raw["rate_marriage"]]
    for column in ("occupation", "occupation_husb"):
        frame[column] = [OCCUPATIONS[int(k) - 1] for k in raw[column]]
    frame["religious"] = [("not", "mildly", "fairly", "strongly")[int(k) - 1] for k in raw["religious"]]
    frame["affair"] = ["yes" if k > 0 else "no" for k in raw["affairs"]]
    return frame, "affair"


def anes96() -> tuple[Any, str]:
    """The American election study of 1996: heavy-tailed and whole numbers, categories."""
    import statsmodels.api as sm

    raw = sm.datasets.anes96.load_pandas().data
    frame = raw[["popul", "TVnews", "age", "educ", "income"]].astype(int)
    frame["party"] = [f"party {int(k)}" for k in raw["PID"]]
    frame["leaning"] = [f"leaning {int(k)}" for k in raw["selfLR"]]
    frame["vote"] = ["Dole" if k else "Clinton" for k in raw["vote"]]
    return frame, "vote"


SETS: dict[str, Callable[[], tuple[Any, str]]] = {
    "wine": lambda: of_sklearn("wine"),
    "breast_cancer": lambda: of_sklearn("breast_cancer"),
    "diabetes": lambda: of_sklearn("diabetes"),
    "fair": fair,
    "anes96": anes96,
}


def scored(train: np.ndarray, test: np.ndarray, schema: TableSchema, target: str) -> float:
    """Accuracy, or R² of numbers, of a gradient-boosted tree that is trained on rows (N, columns) and tested on others."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    names = [column.name for column in schema.generated]
    of = names.index(target)
    rest = [k for k in range(len(names)) if k != of]
    categories = [bool(schema.generated[k].values) for k in rest]
    kind = HistGradientBoostingClassifier if schema.generated[of].values else HistGradientBoostingRegressor
    tree = kind(min_samples_leaf=5, categorical_features=categories, random_state=0)
    if len(np.unique(train[:, of])) < 2:
        return 0.0
    return float(tree.fit(train[:, rest], train[:, of]).score(test[:, rest], test[:, of]))


def as_points(rows: np.ndarray, schema: TableSchema, like: np.ndarray) -> np.ndarray:
    """Rows as points whose distances mean something: numbers by the deviation of `like`, categories one-hot, half of their squares each."""
    parts = []
    for k, column in enumerate(schema.generated):
        if column.values:
            parts.append((rows[:, k, None] == np.arange(len(column.values))) / 2**0.5)
        else:
            parts.append((rows[:, k, None] - np.nanmean(like[:, k])) / max(np.nanstd(like[:, k]), 1e-12))
    return np.nan_to_num(np.concatenate(parts, 1))


def nearer_to_training(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray, schema: TableSchema) -> float:
    """The share of samples whose nearest row is one that was trained on, of equally many of both; a draw counts half."""
    n = min(len(train), len(held_out))
    points, a, b = (torch.from_numpy(as_points(rows, schema, train)) for rows in (samples, train[:n], held_out[:n]))
    to_a, to_b = (torch.cdist(points, each).min(1).values for each in (a, b))
    draw = (to_a - to_b).abs() < 1e-9
    return float(torch.where(draw, 0.5, (to_a < to_b).double()).mean())


def measured(name: str, seed: int, steps: int | None) -> dict[str, Any]:
    """Of one split and one training."""
    frame, target = SETS[name]()
    order = np.random.default_rng(seed).permutation(len(frame))
    half = len(frame) // 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.csv"
        frame.iloc[order[:half]].to_csv(path, index=False)
        frame.iloc[order[half:]].to_csv(Path(folder) / "unseen.csv", index=False)
        began = time.monotonic()
        how: dict[str, Any] = {} if steps is None else {"steps": steps}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = undiffuse.train(path, runs=Path(folder) / "runs", seed=seed, **how)
        seconds = time.monotonic() - began
        assert model.config.file_format is not None
        schema = model.config.file_format.table
        assert schema is not None
        from undiffuse.data.table_files import read_table

        train, unseen = (schema.values(read_table(each)) for each in (path, Path(folder) / "unseen.csv"))
        draws = [model.sample(len(train), seed=k).numpy()[:, :, 0].astype(np.float64) for k in range(DRAWS)]
    pooled = np.concatenate(draws)
    missed = sum(
        len(set(train[:, k][~np.isnan(train[:, k])]) - set(pooled[:, k]))
        for k, column in enumerate(schema.generated)
        if column.values
    )
    return {
        "rows": half,
        "columns": len(schema.generated),
        "real": scored(train, unseen, schema, target),
        "synthetic": statistics.mean(scored(each, unseen, schema, target) for each in draws),
        "nearer": nearer_to_training(pooled, train, unseen, schema),
        "categories_missed": missed,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(SETS), metavar="SET")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    results, lines = {}, []
    for name in given.sets:
        each = [measured(name, seed, given.steps) for seed in range(given.seeds)]
        results[name] = each

        def shown(key: str, each: list[dict[str, Any]] = each) -> str:
            values = [100 * one[key] for one in each]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
            return f"{statistics.mean(values):.1f} ± {error:.1f}"

        gap = [100 * (one["synthetic"] - one["real"]) for one in each]
        error = statistics.stdev(gap) / len(gap) ** 0.5 if len(gap) > 1 else float("nan")
        difference = f"{statistics.mean(gap):+.1f} ± {error:.1f}"
        missed = sum(one["categories_missed"] for one in each)
        seconds = f"{statistics.mean(one['seconds'] for one in each):.0f} s"
        lines.append(
            [name, each[0]["rows"], shown("real"), shown("synthetic"), difference, shown("nearer"), missed, seconds]
        )
        print(lines[-1], flush=True)
    write("tables", {"machine": machine(), "sets": results})
    head = ["set", "rows", "real rows", "samples", "difference", "nearer to training", "categories missed", "training"]
    print(table(head, lines))


if __name__ == "__main__":
    main()
