"""The probe: a condition that a network ignores is named before anything is trained, and no other is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.conditioning.instances import KIND_OF, WAYS
from tests.small import TINY_SETTINGS, tiny_config, tiny_model
from undiffuse.conditioning.probe import effect, perturb_zero_parameters, require_sensitivity, shuffled
from undiffuse.conditioning.spec import Condition
from undiffuse.data.config import DataConfig
from undiffuse.networks.unet import UNet
from undiffuse.runs.prepare import prepare

MANY = {f"{name} {inject}": (kind, inject) for name, kind in KIND_OF.items() for inject in WAYS}


def told_to(model, n=6):
    """What n examples could be told: two different values of everything, in turns."""
    asked = {name: [kind.values[k % 2] for k in range(n)] for name, (kind, _) in MANY.items()}
    return model.conditions.encode(asked, n)


def answer_of(denoiser, schedule, n=6):
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(n, 1, 8, 8)
    return lambda told: denoiser(x, schedule(50.0), told).mean


def many():
    return {name: kind.config(inject=inject) for name, (kind, inject) in MANY.items()}


def test_a_model_of_every_kind_by_every_way_passes_though_it_starts_as_nothing():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser, schedule = tiny_config(conditions=many()).build()
    values, answer = told_to(denoiser), answer_of(denoiser, schedule)
    with torch.no_grad():
        assert torch.equal(
            answer(values), answer(denoiser.conditions.encode({n: k.values[0] for n, (k, _) in MANY.items()}, 6))
        )  # says nothing yet
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    denoiser.train()
    require_sensitivity(denoiser, answer, values)
    assert denoiser.training
    assert all(torch.equal(before[name], tensor) for name, tensor in denoiser.state_dict().items())
    assert not any(p.grad is not None for p in denoiser.parameters())


@pytest.mark.parametrize("deaf", [["number concat"], ["text cross_attention"], ["class embedding", "image embedding"]])
def test_those_that_are_not_heard_are_named_and_no_other(deaf):
    model = tiny_model(conditions=many())
    values = told_to(model.denoiser)
    hear = model.denoiser.conditions.forward

    def partly(told):
        return hear(told | {name: values[name][:1].expand_as(told[name]) for name in deaf})

    model.denoiser.conditions.forward = partly
    with pytest.raises(ValueError, match=f"ignores {', '.join(deaf)}: ") as caught:
        require_sensitivity(model.denoiser, answer_of(model.denoiser, model.schedule), values)
    assert "\n" not in str(caught.value)


def test_what_is_the_same_for_all_is_not_blamed():
    model = tiny_model(conditions={"class": KIND_OF["class"].config(), "age": KIND_OF["number"].config()})
    values = model.denoiser.conditions.encode({"class": "dog", "age": [10, 20, 30, 40]}, 4)
    answer = answer_of(model.denoiser, model.schedule, 4)
    assert effect(answer, values, "class") is None
    require_sensitivity(model.denoiser, answer, values)
    require_sensitivity(
        model.denoiser,
        answer_of(model.denoiser, model.schedule, 1),
        {name: value[:1] for name, value in values.items()},
    )
    require_sensitivity(nn.Linear(1, 1), lambda told: torch.zeros(3), {})


def test_the_effect_is_the_root_mean_square_change():
    """An answer that is one number told: shuffling 0, 1, 0, 1 by one place changes each by 1, times its weight."""
    values = {
        "a": torch.tensor([0.0, 1.0, 0.0, 1.0]),
        "b": torch.tensor([5.0, 5.0, 5.0, 5.0]),
        "c": torch.tensor([0, 3, 0, 3]),
    }

    def answer(told):
        return 0.5 * told["a"][:, None] + told["b"][:, None] + 0.0 * told["c"][:, None]

    assert effect(answer, values, "a") == 0.5
    assert effect(answer, values, "b") is None
    assert effect(answer, values, "c") == 0
    assert values["a"].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "rows", [[0, 1], [0] * 5 + [1], [0] * 30 + [1] * 30, [0, 1] * 8, list(range(7)), [[0, 0], [0, 1], [0, 0], [0, 0]]]
)
def test_shuffling_changes_rows_and_only_moves_them(rows):
    value = torch.tensor(rows)
    other = shuffled(value)
    assert sorted(other.tolist()) == sorted(value.tolist())
    changed = (other != value).reshape(len(value), -1).any(1).sum().item()
    counts = np.unique(np.array(rows).reshape(len(rows), -1), axis=0, return_counts=True)[1]
    most = min(len(rows), 2 * (len(rows) - counts.max()))  # what any permutation could change
    assert changed > 0
    assert changed >= most / 2 or len(rows) > 32  # of long runs, 16 steps move 16 at each end
    assert changed <= most
    assert shuffled(value[:1].repeat_interleave(4, 0)) is None


def test_zeros_are_lent_and_given_back_even_where_the_probe_fails():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with torch.no_grad():
        module[1].weight.zero_()
        module[0].bias[0] = 0.0
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    random_state = torch.get_rng_state()

    def broken():
        with perturb_zero_parameters(module):
            assert (module[1].weight != 0).all()
            assert torch.equal(module[0].weight, before["0.weight"])
            raise KeyError("broken")

    with pytest.raises(KeyError):
        broken()
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_run_whose_network_is_deaf_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    """Also where classes lie one after another in the data, as those of folders do, so that the first 64 are all alike."""
    np.savez(
        tmp_path / "x.npz",
        x=np.random.default_rng(0).integers(0, 256, (300, 8, 8), dtype=np.uint8),
        y=np.repeat([0, 1, 2], 100),
    )
    settings = TINY_SETTINGS | {"training.steps": 2, "augment.probability": 0.5}
    hear = UNet.forward
    monkeypatch.setattr(UNet, "forward", lambda self, x, clock, *told: hear(self, x, clock))
    with pytest.raises(ValueError, match="ignores class"):
        next(prepare(DataConfig(source=str(tmp_path / "x.npz")), tmp_path / "r", settings=settings).run().updates())
    assert not (tmp_path / "r").exists()
    monkeypatch.undo()
    next(prepare(DataConfig(source=str(tmp_path / "x.npz")), tmp_path / "r", settings=settings).run().updates())


def test_a_run_that_loses_tokens_on_the_way_is_refused(tmp_path, monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez(
        tmp_path / "x.npz",
        x=x,
        kind=np.array(["a", "b", "c"] * 10),
        caption=np.array([f"picture {k}" for k in range(30)]),
    )
    hear = UNet.forward
    monkeypatch.setattr(
        UNet, "forward", lambda self, x, clock, layers, tokens, absent: hear(self, x, clock, layers, 0 * tokens, absent)
    )
    conditions = {"kind": Condition(kind="class"), "caption": Condition(kind="text")}
    with pytest.raises(ValueError, match="ignores caption: "):
        settings = TINY_SETTINGS | {"training.steps": 2}
        source = DataConfig(source=str(tmp_path / "x.npz"))
        next(prepare(source, tmp_path / "r", settings=settings, conditions=conditions).run().updates())
    assert not (tmp_path / "r").exists()
