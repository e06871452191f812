"""Networks that others released, and where their weights lie in ours: by the names of diffusers' UNet2DModel, and a U-Net as EDM's paper
and repository describe it (Karras et al. 2022, appendix F.3; SongUNet and DhariwalUNet), written anew.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import conv2d, conv_transpose2d, group_norm, linear, pad, silu

from undiffuse.networks.unet_config import UNetConfig


def places(config: UNetConfig, levels: int):
    """Where blocks are in our network: (of each level's blocks on the way down, what halves, of those on the way up, what doubles)."""
    down, halves, number = [], [], 1
    for level in range(levels):
        down.append([f"encoder.{number + block}" for block in range(config.depths[level])])
        number += config.depths[level]
        if level < levels - 1:
            halves.append(f"encoder.{number}")
            number += 1
    up, doubles, number = [], [], 0
    for level in reversed(range(levels)):
        up.append([f"decoder.{number + block}" for block in range(config.depths[level] + 1)])
        number += config.depths[level] + 1
        if level:
            last = f"decoder.{number - 1}"
            attends = 2**level in config.attention
            doubles.append(f"{last}.{2 if attends else 1}")
    return down, halves, up, doubles


# diffusers ----------------------------------------------------------------------------------------------------------------


def from_diffusers(theirs, config: UNetConfig, negated: bool = False) -> dict[str, torch.Tensor]:
    """The weights of a UNet2DModel under our names. negated: for a network whose output has the other sign here.

    Raises KeyError for a name that is not there, AssertionError for one that was left over.
    """
    given = dict(theirs.named_parameters())
    found: dict[str, torch.Tensor] = {}

    def take(old: str, new: str, sign: float = 1.0) -> None:
        for part in ("weight", "bias"):
            found[f"{new}.{part}"] = sign * given.pop(f"{old}.{part}")

    def block(old: str, new: str) -> None:
        for a, b in (
            ("norm1", "norm1"),
            ("conv1", "conv1"),
            ("time_emb_proj", "embed"),
            ("norm2", "norm2"),
            ("conv2", "conv2"),
        ):
            take(f"{old}.{a}", f"{new}.{b}")
        if f"{old}.conv_shortcut.weight" in given:
            take(f"{old}.conv_shortcut", f"{new}.skip")

    def attention(old: str, new: str) -> None:
        take(f"{old}.group_norm", f"{new}.norm")
        for part in ("weight", "bias"):
            found[f"{new}.qkv.{part}"] = torch.cat([given.pop(f"{old}.to_{name}.{part}") for name in "qkv"])
        take(f"{old}.to_out.0", f"{new}.out")

    sign = -1.0 if negated else 1.0
    take("conv_in", "encoder.0.0.conv")
    take("time_embedding.linear_1", "time_embedding.0")
    take("time_embedding.linear_2", "time_embedding.2")
    if config.timestep_embedding == "fourier":
        found["fourier"] = given.pop("time_proj.weight")
    levels = len(config.multipliers)
    down, halves, up, doubles = places(config, levels)
    for level in range(levels):
        for j, where in enumerate(down[level]):
            block(f"down_blocks.{level}.resnets.{j}", f"{where}.0")
            if 2**level in config.attention:
                attention(f"down_blocks.{level}.attentions.{j}", f"{where}.1")
        if level < levels - 1 and config.encoder_type == "skip":
            block(f"down_blocks.{level}.resnet_down", f"{halves[level]}.0")
            take(f"down_blocks.{level}.skip_conv", f"input_pyramid.{halves[level].split('.')[1]}.conv")
        elif level < levels - 1:
            take(f"down_blocks.{level}.downsamplers.0.conv", f"{halves[level]}.0.conv")
    block("mid_block.resnets.0", "middle.0")
    attention("mid_block.attentions.0", "middle.1")
    block("mid_block.resnets.1", "middle.2")
    for step, blocks in enumerate(up):
        level = levels - 1 - step
        for j, where in enumerate(blocks):
            block(f"up_blocks.{step}.resnets.{j}", f"{where}.0")
            if 2**level in config.attention and config.decoder_attention == "every":
                attention(f"up_blocks.{step}.attentions.{j}", f"{where}.1")
        if 2**level in config.attention and config.decoder_attention == "last":
            attention(f"up_blocks.{step}.attentions.0", f"{blocks[-1]}.1")
        if level and config.decoder_type == "skip":
            block(f"up_blocks.{step}.resnet_up", doubles[step])
            take(f"up_blocks.{step}.skip_norm", f"output_pyramid.{blocks[-1].split('.')[1]}.norm")
            take(f"up_blocks.{step}.skip_conv", f"output_pyramid.{blocks[-1].split('.')[1]}.conv", sign)
        elif level:
            take(f"up_blocks.{step}.upsamplers.0.conv", f"{doubles[step]}.conv")
    take("conv_norm_out", "norm")
    take("conv_out", "last", sign)
    assert not given, sorted(given)
    return {name: value.detach().clone() for name, value in found.items()}


# EDM ----------------------------------------------------------------------------------------------------------------------


class EDMUNet:
    """SongUNet (`song`) or DhariwalUNet as a function of (x, c_noise); its weights are drawn when they are first needed, by name.

    attention: downsampling factors.   residual: the encoder's pyramid, of NCSN++.   taps: of the filter.
    """

    def __init__(
        self,
        width,
        mults,
        depth,
        attention,
        *,
        song,
        fourier=False,
        residual=False,
        taps=(1, 1),
        classes=0,
        device="cpu",
    ):
        self.width, self.mults, self.depth, self.attention = width, [int(m) for m in mults], depth, attention
        self.song, self.fourier, self.residual, self.taps, self.device = song, fourier, residual, taps, device
        self.classes = classes
        self.eps, self.scale = (1e-6, math.sqrt(0.5)) if song else (1e-5, 1.0)
        self.weights: dict[str, torch.Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def weight(self, name, *shape):
        if name not in self.weights:
            drawn = (
                torch.empty(shape, device="meta")
                if self.device == "meta"
                else torch.randn(shape, generator=self.generator)
            )
            self.weights[name] = drawn / max(1, math.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.3 * drawn
        return self.weights[name]

    def norm(self, name, x):
        channels = x.shape[1]
        return group_norm(
            x,
            min(32, channels // 4),
            1 + self.weight(f"{name}.gain", channels),
            self.weight(f"{name}.bias", channels),
            self.eps,
        )

    def filtered(self, x, way):
        f = torch.tensor(self.taps, dtype=torch.float32, device=self.device)
        f = (f[:, None] * f)[None, None] / f.sum() ** 2
        channels, edge = x.shape[1], (len(self.taps) - 1) // 2
        f = f.repeat(channels, 1, 1, 1)
        if way == "up":
            return conv_transpose2d(x, 4 * f, stride=2, padding=edge, groups=channels)
        return conv2d(x, f, stride=2, padding=edge, groups=channels)

    def conv(self, name, x, channels, size):
        return conv2d(
            x,
            self.weight(f"{name}.weight", channels, x.shape[1], size, size),
            self.weight(f"{name}.bias", channels),
            padding=size // 2,
        )

    def dense(self, name, x, channels):
        return linear(x, self.weight(f"{name}.weight", channels, x.shape[1]), self.weight(f"{name}.bias", channels))

    def block(self, name, x, emb, channels, way=None, attends=False):
        change = (lambda y: self.filtered(y, way)) if way else lambda y: y
        h = self.conv(f"{name}.conv0", change(silu(self.norm(f"{name}.norm0", x))), channels, 3)
        if self.song:
            h = silu(self.norm(f"{name}.norm1", h + self.dense(f"{name}.affine", emb, channels)[..., None, None]))
        else:
            scale, shift = self.dense(f"{name}.affine", emb, 2 * channels)[..., None, None].chunk(2, 1)
            h = silu(self.norm(f"{name}.norm1", h) * (scale + 1) + shift)
        h = self.conv(f"{name}.conv1", h, channels, 3)
        skip = change(x)
        if channels != x.shape[1] or (way and self.song):
            skip = self.conv(f"{name}.skip", skip, channels, 1)
        x = self.scale * (skip + h)
        if attends:
            heads = 1 if self.song else channels // 64
            qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm2", x), 3 * channels, 1)
            q, k, v = qkv.reshape(len(x), heads, channels // heads, 3, -1).unbind(3)  # (B, heads, c, positions)
            weights = (q.transpose(2, 3) @ k / math.sqrt(channels // heads)).softmax(-1)
            x = self.scale * (
                x + self.conv(f"{name}.proj", (v @ weights.transpose(2, 3)).reshape(x.shape), channels, 1)
            )
        return x

    def label(self, k):
        """What the classes (B,) add to the embedding: before the clock's layers in SongUNet, after them in DhariwalUNet, which has no bias."""
        one_hot = torch.nn.functional.one_hot(k, self.classes).float()
        if self.song:
            return self.dense(
                "map_label", one_hot * math.sqrt(self.classes), 2 * self.width if self.fourier else self.width
            )
        return linear(one_hot, self.weight("map_label.weight", 4 * self.width, self.classes))

    def table(self):
        """The rows of an embedding of classes that is the same."""
        weight = self.weights.pop("map_label.weight").T
        return weight * math.sqrt(self.classes) + self.weights.pop("map_label.bias") if self.song else weight

    def embedding(self, noise, k=None):
        numbers = 2 * self.width if self.fourier else self.width
        half = numbers // 2
        if self.fourier:
            angle = noise[:, None] * 2 * math.pi * self.weight("freqs", half)
        else:
            steps = half - 1 if self.song else half
            angle = noise[:, None] * (1 / 10000) ** (torch.arange(half, device=self.device) / steps)
        waves = torch.cat([angle.sin(), angle.cos()] if self.song else [angle.cos(), angle.sin()], 1)
        if k is not None and self.song:
            waves = waves + self.label(k)
        embedding = self.dense("map_layer1", silu(self.dense("map_layer0", waves, 4 * self.width)), 4 * self.width)
        return silu(embedding if k is None or self.song else embedding + self.label(k))

    def __call__(self, x, noise, k=None):
        emb, aux, last = self.embedding(noise, k), x, len(self.mults) - 1
        channels_out = x.shape[1]
        x = self.conv("enc.first", x, self.width if self.song else self.width * self.mults[0], 3)
        skips = [x]
        for level, mult in enumerate(self.mults):
            if level:
                x = self.block(f"enc.{level}.down", x, emb, x.shape[1], "down")
                if self.residual:  # the convolution and its filter are padded together, once
                    name, edge = f"enc.{level}.aux", 1 + (len(self.taps) - 1) // 2
                    aux = conv2d(pad(aux, [edge] * 4), self.weight(f"{name}.weight", x.shape[1], aux.shape[1], 3, 3))
                    f = torch.tensor(self.taps, dtype=torch.float32, device=self.device)
                    f = ((f[:, None] * f)[None, None] / f.sum() ** 2).repeat(x.shape[1], 1, 1, 1)
                    aux = (
                        conv2d(aux, f, stride=2, groups=x.shape[1])
                        + self.weight(f"{name}.bias", x.shape[1])[:, None, None]
                    )
                    x = aux = (x + aux) / math.sqrt(2)
                skips.append(x)
            for k in range(self.depth):
                x = self.block(f"enc.{level}.{k}", x, emb, self.width * mult, attends=2**level in self.attention)
                skips.append(x)
        x = self.block("dec.in0", x, emb, x.shape[1], attends=True)
        x = self.block("dec.in1", x, emb, x.shape[1])
        for level in range(last, -1, -1):
            if level < last:
                x = self.block(f"dec.{level}.up", x, emb, x.shape[1], "up")
            for k in range(self.depth + 1):
                attends = 2**level in self.attention and (k == self.depth or not self.song)
                x = self.block(
                    f"dec.{level}.{k}",
                    torch.cat([x, skips.pop()], 1),
                    emb,
                    self.width * self.mults[level],
                    attends=attends,
                )
        return self.conv("out", silu(self.norm("out.norm", x)), channels_out, 3)

    def renamed(self, config: UNetConfig) -> dict[str, torch.Tensor]:
        """Its weights under our names."""
        given, found = dict(self.weights), {}

        def take(old, new):
            for part in ("weight", "bias"):
                found[f"{new}.{part}"] = given.pop(f"{old}.{part}")

        def norm(old, new):
            found[f"{new}.weight"], found[f"{new}.bias"] = 1 + given.pop(f"{old}.gain"), given.pop(f"{old}.bias")

        def block(old, new, attention=None):
            for a, b in (("conv0", "conv1"), ("affine", "embed"), ("conv1", "conv2")):
                take(f"{old}.{a}", f"{new}.{b}")
            norm(f"{old}.norm0", f"{new}.norm1")
            norm(f"{old}.norm1", f"{new}.norm2")
            if f"{old}.skip.weight" in given:
                take(f"{old}.skip", f"{new}.skip")
            if f"{old}.qkv.weight" in given:
                norm(f"{old}.norm2", f"{attention}.norm")
                channels = given[f"{old}.proj.bias"].shape[0]
                heads = 1 if self.song else channels // 64
                for part in ("weight", "bias"):  # theirs lie as (head, channel, q k v), ours as (q k v, head, channel)
                    theirs = (
                        given.pop(f"{old}.qkv.{part}").flatten(1)
                        if part == "weight"
                        else given.pop(f"{old}.qkv.{part}")[:, None]
                    )
                    ours = theirs.reshape(heads, channels // heads, 3, -1).permute(2, 0, 1, 3).reshape(3 * channels, -1)
                    found[f"{attention}.qkv.{part}"] = ours if part == "weight" else ours[:, 0]
                found[f"{attention}.out.weight"] = given.pop(f"{old}.proj.weight").flatten(1)
                found[f"{attention}.out.bias"] = given.pop(f"{old}.proj.bias")

        take("enc.first", "encoder.0.0.conv")
        take("map_layer0", "time_embedding.0")
        take("map_layer1", "time_embedding.2")
        if self.fourier:
            found["fourier"] = given.pop("freqs")
        levels = len(self.mults)
        down, halves, up, doubles = places(config, levels)
        for level in range(levels):
            if level:
                block(f"enc.{level}.down", f"{halves[level - 1]}.0")
                if self.residual:
                    take(f"enc.{level}.aux", f"input_pyramid.{halves[level - 1].split('.')[1]}.conv")
            for k, where in enumerate(down[level]):
                block(f"enc.{level}.{k}", f"{where}.0", f"{where}.1")
        block("dec.in0", "middle.0", "middle.1")
        block("dec.in1", "middle.2")
        for step, blocks in enumerate(up):
            level = levels - 1 - step
            for k, where in enumerate(blocks):
                block(f"dec.{level}.{k}", f"{where}.0", f"{where}.1")
            if level:
                block(f"dec.{level - 1}.up", doubles[step])
        norm("out.norm", "norm")
        take("out", "last")
        assert not given, sorted(given)
        return found


def filled(module: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The module with these weights, every one of them and no other."""
    own = dict(module.named_parameters())
    assert own.keys() == weights.keys(), sorted(own.keys() ^ weights.keys())
    with torch.no_grad():
        for name, p in own.items():
            assert p.shape == weights[name].shape, name
            p.copy_(weights[name])
    return module.eval()
