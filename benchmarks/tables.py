"""Tables: is a model that learned from generated rows as good on real ones, and are the rows new?

    python -m benchmarks.tables [--steps N] [--splits 3] [--only wine] [--controls]

    wine       13 numbers and which of 3 wines it is      which wine, accuracy
    cancer     30 numbers and a diagnosis                 which diagnosis, accuracy
    diabetes   9 numbers, the sex, and a progression      the progression, R²
    election   numbers and words of a survey, 944 rows    which candidate, accuracy

Each split halves the rows at random, into training and test rows.  A diffusion model is trained on the first half, and as many rows are generated.

    score        of scikit-learn's HistGradientBoosting, fitted to these rows, on the test rows
    nearer       share of these rows whose nearest training row is nearer than their nearest test row, ties halved: 50 % of new rows, 100 % of
                 copies.  Numbers are divided by their deviation over all rows, categories and empty cells are one-hot
    categories   share of the categories of the training rows that these rows have

Beside generated rows: the training rows themselves, which are copies; these with every column shuffled for itself, which know no relation
between columns; and rows of a Gaussian fitted to the numbers of each class, which copies nothing, and lies nearer to few rows all the same, for it
has their mean and covariance (where there are categories but the class, there is none).  --controls tests the evaluation and trains nothing: a third of the rows takes the place of generated ones, and must be nearer to
neither half.

Needs scikit-learn and, for the election, statsmodels.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import undiffuse
from benchmarks.common import RESULTS, machine, table, write
from undiffuse.data.table_schema import TableSchema

Content = dict[str, list[object]]
MEASURES = ("score", "nearer", "categories")
AT_ONCE = 256  # rows whose distances are taken at once
PARTIES = (
    "strong Democrat",
    "weak Democrat",
    "leans to Democrats",
    "independent",
    "leans to Republicans",
    "weak Republican",
    "strong Republican",
)
SCHOOLS = ("grades", "some high school", "high school", "some college", "college", "bachelor", "master")


@dataclass(frozen=True)
class Task:
    """Rows, and the column that is predicted from the others.   classes: whether it is a category."""

    content: Content
    target: str
    classes: bool = True


def of_sklearn(name: str, **options: object) -> Callable[[], Task]:
    def load() -> Task:
        from sklearn import datasets

        data = getattr(datasets, f"load_{name}")(**options)
        content: Content = {
            n: [repr(v) for v in column] for n, column in zip(data.feature_names, data.data.T.tolist(), strict=True)
        }
        classes = hasattr(data, "target_names")
        content["target"] = [str(data.target_names[int(v)]) if classes else repr(v) for v in data.target.tolist()]
        return Task(content, "target", classes)

    return load


def election() -> Task:
    """The American National Election Study of 1996: the logarithm of a column is left out, and numbers that stand for words are words again."""
    from statsmodels.datasets import anes96

    data = anes96.load_pandas().data
    content: Content = {name: [str(int(v)) for v in data[name]] for name in data if name != "logpopul"}
    words = {"vote": ("Clinton", "Dole"), "PID": PARTIES, "educ": ("", *SCHOOLS)}
    return Task(content | {name: [of[int(v)] for v in data[name]] for name, of in words.items()}, "vote")


TASKS: dict[str, Callable[[], Task]] = {
    "wine": of_sklearn("wine"),
    "cancer": of_sklearn("breast_cancer"),
    "diabetes": of_sklearn("diabetes", scaled=False),
    "election": election,
}


def score(schema: TableSchema, task: Task, rows: np.ndarray, test: np.ndarray) -> float:
    """Of a model fitted to rows (N, C), on others: accuracy, or R²."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    k = next(k for k, column in enumerate(schema.generated) if column.name == task.target)
    categories = [bool(column.values) for column in schema.generated]
    del categories[k]
    kind = HistGradientBoostingClassifier if task.classes else HistGradientBoostingRegressor
    known = rows[~np.isnan(rows[:, k])]
    if task.classes and len(np.unique(known[:, k])) < 2:  # there is nothing to learn
        return float((test[:, k] == known[0, k]).mean())
    model = kind(categorical_features=categories, random_state=0).fit(np.delete(known, k, 1), known[:, k])
    return float(model.score(np.delete(test, k, 1), test[:, k]))


def as_points(schema: TableSchema, rows: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Rows as points whose distances compare them: numbers by their deviation, categories and empty cells one-hot."""
    parts = []
    for k, column in enumerate(schema.generated):
        cells, empty = rows[:, k], np.isnan(rows[:, k])
        if column.values:
            parts.append(np.eye(len(column.values) + 1)[np.where(empty, len(column.values), cells).astype(int)])
        else:
            parts.append(np.stack([np.where(empty, 0.0, cells / deviations[k]), empty], 1))
    return np.concatenate(parts, 1)


def nearest_distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of each point (N, D) the squared distance to the nearest of others."""
    found = [
        ((points[start : start + AT_ONCE, None] - others[None]) ** 2).sum(-1).min(1)
        for start in range(0, len(points), AT_ONCE)
    ]
    return np.concatenate(found)


def measures(
    schema: TableSchema, task: Task, rows: np.ndarray, training: np.ndarray, test: np.ndarray
) -> dict[str, float]:
    """What is said of rows (N, C), see the top of this file."""
    deviations = np.nanstd(np.concatenate([training, test]), 0)
    deviations[~(deviations > 0)] = 1.0
    points, near, far = (as_points(schema, each, deviations) for each in (rows, training, test))
    a, b = nearest_distances(points, near), nearest_distances(points, far)
    seen, there = 0, 0
    for k, column in enumerate(schema.generated):
        if column.values:
            known = set(training[~np.isnan(training[:, k]), k])
            seen, there = seen + len(known & set(rows[:, k])), there + len(known)
    return {
        "score": score(schema, task, rows, test),
        "nearer": float(((a < b) + 0.5 * (a == b)).mean()),
        "categories": seen / there if there else 1.0,
    }


def shuffled(rows: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permuted(rows, axis=0)


def generated(content: Content, count: int, seed: int, steps: int | None) -> Content:
    """The cells of new rows, of a model that was trained on a file with these.   steps: of the training, undiffuse's choice when None."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "training.csv"
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(content)
            writer.writerows(zip(*content.values(), strict=True))
        training: dict[str, Any] = {} if steps is None else {"steps": steps}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = undiffuse.train(str(path), name="table", runs=folder, seed=seed, **training)
        return model.table(model.sample(count, seed=seed))


def one_split(task: Task, seed: int, steps: int | None, controls: bool) -> dict[str, dict[str, float]]:
    """The measures of each kind of rows, by a schema of all rows, so that it knows every cell.   controls: real rows in place of generated ones."""
    count = len(task.content[task.target])
    parts = 3 if controls else 2
    order = np.random.default_rng(seed).permutation(count)
    cells: list[Content] = []
    for k in range(parts):
        rows = np.sort(order[k * (count // parts) : (k + 1) * (count // parts)])
        cells.append({name: [column[row] for row in rows] for name, column in task.content.items()})
    name, new = (
        ("fresh rows", cells[2]) if controls else ("generated", generated(cells[0], count // parts, seed, steps))
    )
    schema = TableSchema.infer(task.content, ".csv", {})
    training, test = schema.values(cells[0]), schema.values(cells[1])
    each = {"training rows": training, name: schema.values(new), "shuffled columns": shuffled(training, seed)}
    normal = gaussian(schema, task, training, seed)
    each |= {} if normal is None else {"a Gaussian": normal}
    return {what: measures(schema, task, rows, training, test) for what, rows in each.items()}


def gaussian(schema: TableSchema, task: Task, training: np.ndarray, seed: int) -> np.ndarray | None:
    """As many rows of a Gaussian for each class; None where other columns are categories."""
    k = next(k for k, column in enumerate(schema.generated) if column.name == task.target)
    numbers = [j for j, column in enumerate(schema.generated) if not column.values]
    if any(j not in numbers and j != k for j in range(training.shape[1])):
        return None
    draws, rows = np.random.default_rng(seed), training.copy()
    for which in (
        [training[:, k] == g for g in np.unique(training[:, k])] if task.classes else [np.full(len(rows), True)]
    ):
        part = training[which][:, numbers]
        rows[np.ix_(which, np.array(numbers))] = draws.multivariate_normal(part.mean(0), np.cov(part.T), len(part))
    return rows


def average(splits: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, tuple[float, float]]]:
    """(mean, standard error) over splits, NaN for the error of one."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for what in splits[0]:
        found[what] = {}
        for measure in MEASURES:
            values = np.array([split[what][measure] for split in splits])
            error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
            found[what][measure] = (float(values.mean()), float(error))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="updates of each training; undiffuse's choice when left out")
    parser.add_argument("--splits", type=int, default=3, help="how often the rows are halved anew")
    parser.add_argument("--only", choices=TASKS, help="one table; the results of the others are kept")
    parser.add_argument(
        "--controls", action="store_true", help="real rows in place of generated ones, and no results are written"
    )
    options = parser.parse_args()
    path = RESULTS / "tables.json"
    before = json.loads(path.read_text(encoding="utf-8"))["tables"] if options.only and path.exists() else {}
    where, found, lines = machine(), dict(before), []
    for name in [options.only] if options.only else TASKS:
        task = TASKS[name]()
        splits = [one_split(task, seed, options.steps, options.controls) for seed in range(options.splits)]
        found[name] = {"machine": where, "steps": options.steps, "splits": splits}
        for what, numbers in average(splits).items():
            lines.append([name, what, *(f"{100 * mean:.1f} ± {100 * error:.1f} %" for mean, error in numbers.values())])
        print(table(["table", "rows", *MEASURES], lines[-len(splits[0]) :]) + "\n", flush=True)
    print(table(["table", "rows", *MEASURES], lines))
    if not options.controls:
        write("tables", {"tables": found})


if __name__ == "__main__":
    main()
