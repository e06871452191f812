"""The one training loop: a generator of updates.

Update `step` is a function of the weights and of (seed, step): the batch, the noise levels, the noise, dropped
conditions and what networks draw (dropout, latents) come from generators seeded with the two, each from a stream of its own
(rng.py).  So a run that is stopped, killed and taken up again ends in the same weights, to the bit, as one that was not, and whoever
watches the loop cannot change it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from undiffuse.conditioning.conditions import EncodedConditions
from undiffuse.errors import UsageError
from undiffuse.process.schedules import Schedule
from undiffuse.rng import GeneratorStream, generator, seed_global
from undiffuse.training.deterministic import deterministic
from undiffuse.training.ema import EMA
from undiffuse.training.flat import Flat
from undiffuse.training.health import Health
from undiffuse.training.learners import Learner
from undiffuse.training.settings import TrainingConfig
from undiffuse.training.timesteps import TimestepSampler

ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")

Batches = Callable[[int], tuple[Tensor, EncodedConditions]]
"""step → (x (B, C, *size) in the model's range, what is known of each example), on the device of the network."""


@dataclass(frozen=True)
class Update:
    """One update.   step: how many are done, this one included.   done: share of the run, in [0, 1].

    loss: unweighted mean over the batch.   seconds: of training so far, resumed ones included.
    """

    step: int
    done: float
    loss: float
    gradient_norm: float
    learning_rate: float
    seconds: float
    status: str


class TrainingLoop:
    """Everything a run changes: weights, their average, the optimizer, the level sampler, step and time."""

    def __init__(self, learner: Learner, schedule: Schedule, sampler: TimestepSampler, config: TrainingConfig) -> None:
        self.learner, self.schedule, self.sampler, self.config = learner, schedule, sampler, config
        self.flat = Flat(learner.module)
        self.device = self.flat.parameter.device
        self.optimizer = torch.optim.AdamW(
            [self.flat.parameter],
            lr=config.learning_rate,
            betas=config.adam_betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.ema = EMA(self.flat, config.ema_decay)
        self.health = Health()
        self.step, self.seconds, self.rate_scale = 0, 0.0, 1.0
        self._draws = learner.draws
        dtype = _compute_dtype(config.precision, self.device)
        self._computing = partial(torch.autocast, self.device.type, dtype, enabled=dtype != torch.float32)
        self._snapshot: dict[str, Tensor] = {}
        self.snapshot()
        learner.module.eval()  # and in training mode only inside an update

    @property
    def done(self) -> float:
        """The share of the run that lies behind, by steps or by time."""
        by_steps = self.step / self.config.steps if self.config.steps else 0.0
        by_time = self.seconds / self.config.budget if self.config.budget else 0.0
        return min(1.0, max(by_steps, by_time))

    def updates(self, batches: Batches) -> Iterator[Update]:
        """Updates until the run's steps or budget are used up. Time spent by the consumer between two counts too."""
        began = time.monotonic() - self.seconds
        while (done := self.done) < 1:
            rate = self.rate_scale * self.config.learning_rate_at(self.step, done)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            with deterministic(self.config.deterministic), self._training():
                loss, norm = self._gradient(*batches(self.step))
            verdict = self.health.check(loss, norm)
            if verdict == "fine":
                self.optimizer.step()
                self.ema.update()
            elif verdict == "rollback":
                self.load(self._snapshot)
                self.rate_scale /= 2
            self.step += 1
            self.seconds = time.monotonic() - began
            yield Update(self.step, self.done, loss, norm, rate, self.seconds, verdict)
            self.seconds = time.monotonic() - began

    @contextmanager
    def _training(self) -> Iterator[None]:
        """The network in training mode, where that makes a difference, and back: whoever looks on between updates sees no dropout."""
        if self._draws:
            self.learner.module.train()
        try:
            yield
        finally:
            if self._draws:
                self.learner.module.eval()

    def _gradient(self, x: Tensor, values: EncodedConditions) -> tuple[float, float]:
        """Leaves the clipped gradient of one global batch; returns (mean loss, norm before clipping)."""
        of_step = self.config.seed, self.step
        draws = generator(GeneratorStream.TRAINING, *of_step)
        if self._draws:
            seed_global(GeneratorStream.NETWORK, *of_step)
        t, importance = self.sampler.sample(len(x), draws)
        values = self.learner.prepared(values, draws)
        if x.device.type == "cpu":
            eps = torch.randn(x.shape, generator=draws)
        else:
            eps = torch.randn(
                x.shape, device=x.device, generator=generator(GeneratorStream.DEVICE_NOISE, *of_step, x.device)
            )
        gradient = self.flat.gradient.zero_()
        losses = []
        size = -(-len(x) // self.config.accumulate)
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            known = {name: value[part] for name, value in values.items()}
            each = self.learner.losses(x[part], eps[part], self.schedule(t[part]), known, self._computing)
            (each * importance[part].to(each)).sum().div(len(x)).backward()
            losses.append(each.detach())
        every = torch.cat(losses)
        self.sampler.update(t, every)
        norm = torch.linalg.vector_norm(gradient).item()
        if norm > self.config.clip:
            gradient.mul_(self.config.clip / norm)
        return every.mean().item(), norm

    def tensors(self) -> dict[str, Tensor]:
        """Copies of everything an exact resume needs that is a tensor."""
        return {name: value.clone() for name, value in self._state().items()}

    def _state(self) -> dict[str, Tensor]:
        """What `tensors` copies, as it lies."""
        state = {f"online.{name}": p.detach() for name, p in self.flat.named.items()}
        state |= {f"ema.{name}": value for name, value in self.ema.values.items()}
        state |= {f"untrained.{name}": value for name, value in self.learner.untrained().items()}
        adam = self.optimizer.state.get(self.flat.parameter, {})
        if adam:
            state["adam_step"] = adam["step"]
            for key in ADAM_MOMENTS:
                state |= {f"{key}.{name}": value for name, value in self.flat.views(adam[key]).items()}
        return state | {f"sampler.{name}": value for name, value in self.sampler.state.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`. Raises KeyError for a tensor that is missing."""
        for name, p in self.flat.named.items():
            p.copy_(tensors[f"online.{name}"])
        for name, value in self.learner.untrained().items():
            value.copy_(tensors[f"untrained.{name}"])
        self.optimizer.state.clear()
        if "adam_step" in tensors:
            adam = {"step": tensors["adam_step"].clone().to(self.device)}
            for key in ADAM_MOMENTS:
                adam[key] = torch.empty_like(self.flat.parameter)
                for name, view in self.flat.views(adam[key]).items():
                    view.copy_(tensors[f"{key}.{name}"])
            self.optimizer.state[self.flat.parameter] = adam
        self.ema.load({name: tensors[f"ema.{name}"] for name in self.ema.values}, self.ema.updates)
        for name, value in self.sampler.state.items():
            value.copy_(tensors[f"sampler.{name}"])

    def numbers(self) -> dict[str, float]:
        """Everything an exact resume needs that is a number."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "rate_scale": self.rate_scale,
            "ema_updates": self.ema.updates,
            "skipped": self.health.skipped,
            "in_a_row": self.health.in_a_row,
            "rollbacks": self.health.rollbacks,
        }

    def resume(self, tensors: dict[str, Tensor], numbers: dict[str, float]) -> None:
        """Takes up where a checkpoint left off. Raises UsageError, and changes nothing, for the checkpoint of another network."""
        for name, value in self._state().items():
            there = tensors.get(name)
            if there is None or there.shape != value.shape or there.dtype != value.dtype:
                shape = "nothing" if there is None else f"{tuple(there.shape)} of {there.dtype}"
                raise UsageError(
                    f"the checkpoint is of another network ({name}: {shape} there, {tuple(value.shape)} now): choose another name for this run."
                )
        if "adam_step" in tensors:
            shapes = {f"{key}.{name}": p.shape for key in ADAM_MOMENTS for name, p in self.flat.named.items()}
            wrong = [name for name, shape in shapes.items() if name not in tensors or tensors[name].shape != shape]
            if wrong:
                raise UsageError(
                    f"the checkpoint lacks {wrong[0]}, or has it in another shape: remove it to go on from the one before."
                )
        self.load(tensors)
        self.step, self.seconds, self.rate_scale = int(numbers["step"]), numbers["seconds"], numbers["rate_scale"]
        self.ema.updates = int(numbers["ema_updates"])
        self.health = Health(int(numbers["skipped"]), int(numbers["in_a_row"]), int(numbers["rollbacks"]))
        self.snapshot()

    def snapshot(self) -> dict[str, Tensor]:
        """The tensors now, also kept as what to return to when training goes wrong; written over by the next snapshot.

        They are kept once, in the memory of the host: on the device they would take four times the parameters.
        """
        kept, now = self._snapshot, self._state()
        self._snapshot = {
            name: kept[name].copy_(value) if name in kept else value.to("cpu", copy=True) for name, value in now.items()
        }
        return self._snapshot


def _compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "bf16" or (precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(False)):
        return torch.bfloat16
    return torch.float32
