"""Your own data set: anything with a length and items. Here an item is a dict, as in Hugging Face data sets."""

import math

import torch

import undiffuse


class Waves(torch.utils.data.Dataset):
    """500 signals of 32 numbers. The frequency of each is known."""

    def __len__(self):
        return 500

    def __getitem__(self, k):
        frequency, time = 1 + 3 * k / 500, torch.linspace(0, 2 * math.pi, 32)
        return {"x": torch.sin(frequency * time + k), "frequency": frequency}


class Net(torch.nn.Module):
    """Is given signals x (B, 1, 32), the time t (B,) and the condition as a vector (B, 16)."""

    embedding_width = 16

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(32 + 1 + 16, 64), torch.nn.Linear(64, 32)

    def forward(self, x, t, embedding):
        return self.last(torch.relu(self.first(torch.cat([x[:, 0], t[:, None] / 1000, embedding], 1))))[:, None]


# this condition reads the entry "frequency" of every item, and its values are numbers
conditions = {"frequency": undiffuse.Condition(kind="number")}
trainer = undiffuse.Trainer(Net, Waves(), conditions=conditions, name="waves", steps=200, batch_size=32)
for update in trainer:
    print("step", update.step, "loss", update.loss)
print(trainer.model.sample(2, {"frequency": [1.5, 3.5]}).shape)
