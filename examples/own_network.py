"""Your own network: any torch module. It is trained, saved, loaded and sampled like the networks of undiffuse."""

import torch
from torch import nn

import undiffuse


class Net(nn.Module):
    """Is given noisy pictures x. What it returns has the shape of x."""

    embedding_width = 32  # the conditions are given to the network as one vector of this length

    def __init__(self, width=32):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        self.time, self.label = nn.Linear(1, width), nn.Linear(self.embedding_width, width)

    def forward(self, x, t, embedding):
        """x: (B, 1, 8, 8).   t: (B,), from 0 (no noise) to 999 (only noise).   embedding: (B, 32)."""
        extra = self.time(t[:, None] / 1000) + self.label(embedding)
        return self.last(torch.relu(self.first(x) + extra[:, :, None, None]))


# 400 small pictures: those with label 0 are dark, those with label 1 are bright
torch.manual_seed(0)  # the same pictures every time
x, label = torch.rand(400, 1, 8, 8), torch.arange(400) % 2
x[label == 1] += 2
dataset = torch.utils.data.TensorDataset(x, label)

trainer = undiffuse.Trainer(Net, dataset, conditions={"class": ["dark", "bright"]}, steps=200, batch_size=32)
trainer.fit()  # stop it and start it again: it continues at the same place, with the same numbers
trainer.model.save("own_network.safetensors")

model = undiffuse.load("own_network.safetensors", network=Net)  # a file never imports code, so give it the class
for name in ("dark", "bright"):
    print(name, model.sample(16, {"class": name}).mean().item())
