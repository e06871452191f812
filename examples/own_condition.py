"""Your own kind of condition: an angle in degrees. 0 and 360 degrees are the same."""

from math import cos, degrees, radians, sin
from typing import Literal

import torch

import undiffuse
from undiffuse.conditioning.base import ConditionModule, ConditionSettings


class AngleConfig(ConditionSettings):
    """What a model file stores of it: its name."""

    kind: Literal["angle"] = "angle"


class Angle(ConditionModule):
    """The part of the model that turns angles into what the network is given."""

    def __init__(self, config, width):
        super().__init__(config)
        self.linear = torch.nn.Linear(3, width)

    def read(self, values):  # from what people write to numbers: (B, 3)
        turns = [radians(float(value)) for value in values]
        return torch.tensor([[sin(turn), cos(turn), 1] for turn in turns])

    def null_token(self):  # the three numbers where no angle is given
        return torch.zeros(3)

    def forward(self, encoded):  # from these numbers to what the network is given: (B, width)
        return self.linear(encoded)


undiffuse.register_condition("angle", AngleConfig, Angle)
undiffuse.register_source("circle", lambda text: [{"x": [cos(a), sin(a)], "angle": degrees(a)} for a in range(400)])
model = undiffuse.train("circle", conditions={"angle": undiffuse.Condition(kind="angle")}, steps=200)
print(model.sample(3, {"angle": [0, 90, 450]}, index=[0, 1, 1])[:, :, 0])  # 450 degrees are 90 degrees
