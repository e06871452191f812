"""What is known of how good a run's model is: errors on held-out examples, baselines, and what its conditions change.

Everything is made when it is first used.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undiffuse.conditioning.columns import column_values
from undiffuse.conditioning.conditions import EncodedConditions
from undiffuse.conditioning.known import KNOWN
from undiffuse.models.model import Model
from undiffuse.rng import GeneratorStream, generator, permuted
from undiffuse.runs.prepared import Prepared
from undiffuse.training.loop import TrainingLoop
from undiffuse.training.scores import HeldOut, Scores
from undiffuse.training.validation import Baseline, ValidationSet, baseline_errors, evaluated, validation_size

MOST_REFERENCE_NUMBERS = 2**25  # of the training set, for the baselines
QUICK, THOROUGH = 3.0, 30.0  # seconds for measuring held-out examples, while training and at its end


class Measurements:
    """Of the model that a loop trains, on held-out examples; where none are held out, on those that are trained on."""

    def __init__(self, model: Model, loop: TrainingLoop, prepared: Prepared, device: torch.device) -> None:
        self.model, self.loop, self.prepared, self.device = model, loop, prepared, device
        self._scored: tuple[int, float, Scores | None] = (-1, 0.0, None)
        self._sensitivity: tuple[int, dict[str, list[float]]] = (-1, {})

    @cached_property
    def rows(self) -> np.ndarray:
        """The examples that the model is judged by, in random order, since data may be sorted by class."""
        held_out = self.prepared.held_out
        return permuted(GeneratorStream.JUDGED, held_out if len(held_out) else self.prepared.training)

    def _examples(self, first: int, last: int) -> tuple[Tensor, EncodedConditions]:
        draws = generator(GeneratorStream.HELD_OUT_TASKS, 0, first)
        return self.prepared.examples(self.rows[first:last], self.model.codec, self.device, draws)

    def values_of(self, most: int) -> dict[str, list[Any]]:
        """The declared conditions of the first examples, at most so many, as people write them."""
        rows = self.rows[:most]
        return {
            name: column_values(self.prepared.data, name, condition, rows)
            for name, condition in self.prepared.declared.items()
        }

    @cached_property
    def validation(self) -> ValidationSet:
        """The first examples, as many as curves and previews are made of."""
        size = validation_size(self.model.codec.shape)
        x, values = self._examples(0, size)
        return ValidationSet.of(x, values, self.model.schedule, known=None if self._known is None else values[KNOWN])

    @cached_property
    def held_out(self) -> HeldOut | None:
        """The held-out examples and the baseline that errors are compared with, None where nothing is held out."""
        if not len(self.prepared.held_out):
            return None
        baseline = Baseline.of(*self._some_of_training())
        of, known = self.model.schedule, None if self._known is None else KNOWN
        return HeldOut(len(self.rows), self._examples, self.model.codec.shape, of, baseline, known)

    @property
    def _known(self) -> np.ndarray | None:
        return self.prepared.data.known

    def _some_of_training(self) -> tuple[Tensor, Tensor | None]:
        """x of training examples, drawn at random, as many as baselines are made of; which of their numbers are known."""
        n = max(1, MOST_REFERENCE_NUMBERS // math.prod(self.model.codec.shape))
        rows = permuted(GeneratorStream.LOOKED_AT, self.prepared.training)[:n]
        x = self.model.codec.encode_parts(self.prepared.data.values, rows, known=self._known)
        return x, None if self._known is None else torch.from_numpy(self._known[rows])

    def measured(self, seconds: float = THOROUGH) -> Scores | None:
        """Errors of both sets of weights, "ema" and "online", on held-out examples, None where there are none.

        seconds: after which it makes do with the examples that were measured.
        """
        step, took, found = self._scored
        if self.held_out is not None and (step != self.loop.step or took < seconds):
            denoiser = self.model.denoiser

            def online(bank: ValidationSet) -> Tensor:
                return evaluated(denoiser, lambda: bank.each(denoiser.bind(bank.values)))

            def ema(bank: ValidationSet) -> Tensor:
                with self.loop.ema.swapped():
                    return online(bank)

            found = self.held_out.measured({"ema": ema, "online": online}, seconds)
            self._scored = (self.loop.step, seconds, found)
        return found

    def scores(self) -> dict[str, dict[str, Any]]:
        """Summary of `measured`, see training/scores.py; empty where nothing is held out."""
        found = self.measured()
        return {} if found is None else found.summary()

    def curves(self) -> dict[str, list[float]]:
        """Error by level of the baselines of training/validation.py, on the examples of `validation`."""
        training, known = self._some_of_training()
        found = baseline_errors(self.validation, training, Baseline.of(training, known))
        named = {"trivial": found.trivial, "linear": found.linear, "copying": found.copying}
        return {name: curve.tolist() for name, curve in named.items() if curve is not None}

    def condition_sensitivity(self) -> dict[str, list[float]]:
        """How much shuffling each condition changes x̂ at each level, in standard deviations of x_0; by the averaged weights."""
        if self._sensitivity[0] != self.loop.step:
            denoiser = self.model.denoiser
            with self.loop.ema.swapped():
                changes = self.validation.effects(denoiser.bind, denoiser.conditions.settable)
            self._sensitivity = (self.loop.step, changes)
        return self._sensitivity[1]

    def verdict(self) -> str:
        """How good the model is on held-out examples, beside what the covariance alone would give, and what conditions change."""
        found, held_out = self.measured(), self.held_out
        if found is None or held_out is None:
            text = "no held-out examples, so nothing is known of how it does on new ones"
        else:
            text = found.sentence(found.best(), held_out.baseline.name)
        changes = ", ".join(f"{name} {max(each):.2f}" for name, each in self.condition_sensitivity().items())
        if changes:
            text += f"\nsensitivity to conditions: {changes} (the most that x̂ changes when one is shuffled, in standard deviations of the data)"
        return text
