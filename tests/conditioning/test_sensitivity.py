"""Models hear each kind of condition by every way in, beside the input where it lies; and the probe finds those that do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.conditioning.instances import DROPPABLE, KIND_OF, WAYS, WIDTH, picture
from tests.small import randomised, tiny_model
from undiffuse.conditioning.conditions import Conditions
from undiffuse.conditioning.pictures import ImageConfig
from undiffuse.models.denoiser import Denoiser
from undiffuse.process.betas import cosine_betas
from undiffuse.process.chains import Chain
from undiffuse.process.predictions import make_prediction

droppable = pytest.mark.parametrize("kind", DROPPABLE.values(), ids=DROPPABLE)
every = pytest.mark.parametrize("kind", KIND_OF.values(), ids=KIND_OF)
by_every_way = pytest.mark.parametrize("inject", WAYS)


def believed(model, values):
    """x̂ of one x_t for each row of values; everything that is not told is the same."""
    n = len(next(iter(values.values())))
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(5)).expand(n, 1, 8, 8)
    with torch.no_grad():
        return model.denoiser(x, model.schedule(50.0), values).mean


@every
@by_every_way
def test_a_model_hears_it(kind, inject):
    model = tiny_model(conditions={"it": kind.config(inject=inject)})
    said = list(kind.values) + ([None] if model.denoiser.conditions["it"].config.droppable else [])
    means = believed(model, model.denoiser.conditions.encode({"it": said}, len(said)))
    distances = [(a - b).abs().max() for i, a in enumerate(means) for b in means[:i]]
    assert min(distances) > 1e-4
    # and every example hears its own: alone it is answered as among others, up to float32 sums in another order
    alone = believed(model, model.denoiser.conditions.encode({"it": said[1:2]}, 1))
    torch.testing.assert_close(alone[0], means[1], rtol=1e-4, atol=1e-5)


@by_every_way
def test_every_one_of_several_is_heard(inject):
    model = tiny_model(conditions={name: kind.config(inject=inject) for name, kind in KIND_OF.items()})
    conditions = model.denoiser.conditions
    values = conditions.encode({name: kind.values[0] for name, kind in KIND_OF.items()}, 1)
    base = believed(model, values)
    for name, kind in KIND_OF.items():
        other = believed(model, values | {name: conditions[name].encode([kind.values[1]])})
        assert (base - other).abs().max() > 1e-5, (
            name
        )  # one of 75 tokens where they are attended to; 0 if it were not heard


@droppable
@by_every_way
def test_side_by_side_is_one_evaluation_each(kind, inject):
    model = tiny_model(conditions={"it": kind.config(inject=inject), "age": DROPPABLE["number"].config()})
    conditions, level = model.denoiser.conditions, model.schedule(40.0)
    values = conditions.encode({"it": list(kind.values), "age": [10, 20, 30]}, 3)
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sets = [values, conditions.without(values), conditions.without(values, ["it"])]
    assert torch.equal(sets[2]["age"], values["age"])
    with torch.no_grad():
        found = model.denoiser.batched(sets)(x, level)
        for posterior, told in zip(found, sets, strict=True):
            torch.testing.assert_close(posterior.mean, model.denoiser(x, level, told).mean, rtol=1e-4, atol=1e-5)
        assert torch.equal(sets[1]["it"], conditions.encode({"age": 10}, 3)["it"])


def test_side_by_side_gives_each_set_its_own_spread():
    model = tiny_model(variance_type="learned_range")
    values = model.denoiser.conditions.encode({"class": ["cat", "dog"]}, 2)
    x, level = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), model.schedule(40.0)
    with torch.no_grad():
        told, untold = model.denoiser.batched([values, model.denoiser.conditions.without(values)])(x, level)
        torch.testing.assert_close(told.variance.v, model.denoiser(x, level, values).variance.v, rtol=1e-4, atol=1e-5)
    assert (told.variance.v - untold.variance.v).abs().max() > 1e-4


@pytest.mark.parametrize("shape", [(1, 7), (2, 5, 6), (1, 4, 3, 5)])
def test_conditions_beside_fit_examples_of_any_number_of_axes(shape):
    """A picture of another size is resized, and what has no size of its own is the same everywhere."""
    configs = {"class": DROPPABLE["class"].config(inject="concat")}
    smaller = (1, *(max(2, n // 2) for n in shape[1:]))
    configs["small"] = ImageConfig(shape=smaller, low=0.0, high=1.0)
    model = tiny_model(shape=shape, conditions=configs)
    a, b = (
        model.sample(2, {"class": "cat", "small": torch.zeros(smaller)}),
        model.sample(2, {"class": "cat", "small": torch.ones(smaller)}),
    )
    assert a.shape == (2, *shape)
    assert not torch.equal(a, b)


def test_a_picture_beside_the_input_is_seen_where_it_lies():
    """One convolution of 3×3 sees one neighbour far and no further: what is beside the noisy input is not moved."""

    class Reach(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = randomised(nn.Conv2d(1 + 3, 1, 3, padding=1))

        def forward(self, x, clock, layers):
            return self.conv(x)

    chain = Chain(cosine_betas(20))
    conditions = Conditions({"it": DROPPABLE["image"].config()}, WIDTH)
    denoiser = Denoiser(Reach(), make_prediction("x0", chain), conditions, "fixed_small")
    a = picture(0)
    b = a.clone()
    b[:, 2, 6] = 255 - b[:, 2, 6]
    x = torch.zeros(1, 1, 8, 8)
    changed = (
        denoiser(x, chain(5.0), conditions.encode({"it": a}, 1)).mean
        != denoiser(x, chain(5.0), conditions.encode({"it": b}, 1)).mean
    )
    rows, columns = changed[0, 0].nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 3, 5, 7)
