"""Settings by name: the typed names are those of SamplingConfig, and a misspelt one is answered with the nearest."""

from __future__ import annotations

from typing import get_type_hints

import pytest
import torch

from tests.small import images, tiny_model
from undiffuse.errors import UsageError
from undiffuse.models import denoising, editing, inverse_problems
from undiffuse.sampling.overrides import SamplingOverrides
from undiffuse.sampling.settings import SamplingConfig

CAT = {"class": "cat"}
FIELDS = {name: kind for name, kind in get_type_hints(SamplingConfig).items() if name in SamplingConfig.model_fields}


def test_overrides_are_the_fields_of_the_settings():
    assert get_type_hints(SamplingOverrides) == FIELDS
    assert not SamplingOverrides.__required_keys__


@pytest.mark.parametrize(
    ("call", "nearest"),
    [
        (lambda m, x: m.sample(2, stpes=3), "steps"),
        (lambda m, x: m.sample(2, condition=CAT), "conditions"),
        (lambda m, x: m.trajectory(2, guidence=2.0), "guidance"),
        (lambda m, x: m.sampling_config(sovler="ddim"), "solver"),
        (lambda m, x: editing.reconstruct(m, x, step=3), "steps"),
        (lambda m, x: editing.vary(m, x, strenght=0.5), "strength"),
        (lambda m, x: denoising.denoise(m, x, levels=0.5), "level"),
        (lambda m, x: inverse_problems.inpaint(m, x, methods="dps"), "method"),
    ],
)
def test_a_misspelt_setting_names_the_nearest(call, nearest):
    with pytest.raises(UsageError, match=f"did you mean '{nearest}'") as refused:
        call(tiny_model(), images(2)[:, None])
    assert "\n" not in str(refused.value)


def test_whole_settings_are_those_that_are_given_one_by_one():
    model = tiny_model()
    config = model.sampling_config(solver="ddim", steps=5, guidance=2.0)
    assert torch.equal(
        model.sample(2, CAT, sampling=config), model.sample(2, CAT, solver="ddim", steps=5, guidance=2.0)
    )
    fewer = model.sampling_config(config, steps=3)
    assert fewer == model.sampling_config(solver="ddim", steps=3, guidance=2.0)
    assert torch.equal(model.sample(2, CAT, sampling=config, steps=3), model.sample(2, CAT, sampling=fewer))


def test_whole_settings_are_what_an_edit_uses():
    model, values = tiny_model(), images(2)[:, None]
    config = model.sampling_config(solver="euler", grid="karras", steps=4)
    one = editing.reconstruct(model, values, method="ddim", sampling=config)
    other = editing.reconstruct(model, values, method="ddim", grid="karras", steps=4)
    assert torch.equal(one.back, other.back)
    with pytest.raises(UsageError, match="by 'heun', so its solver cannot be chosen"):
        editing.reconstruct(model, values, method="heun", sampling=config)
    config = model.sampling_config(solver="ddim", steps=4)
    one = inverse_problems.upscale(model, values[:, :, ::2, ::2], 2, method="dps", sampling=config)
    other = inverse_problems.upscale(model, values[:, :, ::2, ::2], 2, method="dps", solver="ddim", steps=4)
    assert torch.equal(one.values, other.values)
