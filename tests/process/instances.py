"""Every schedule, once: the laws are checked over this list."""

from __future__ import annotations

from undiffuse.process.betas import BETAS, zero_terminal_snr
from undiffuse.process.chains import Chain
from undiffuse.process.schedules import CONTINUOUS, Schedule

CHAINS: dict[str, Chain] = {
    **{
        f"{name}-{T}": Chain(BETAS[name](T))
        for name in ("linear", "scaled_linear", "cosine", "sigmoid", "constant")
        for T in (1000, 100, 37)
    },
    **{f"{name}-1000": Chain(BETAS[name](1000)) for name in ("sigmoid_alpha_bar", "polynomial")},
    "linear-4000": Chain(BETAS["linear"](4000)),
    "linear-zero": Chain(zero_terminal_snr(BETAS["linear"](100))),
    "scaled_linear-zero": Chain(zero_terminal_snr(BETAS["scaled_linear"](1000))),
    "cosine-shifted": Chain(BETAS["cosine"](100)).shifted(-2.0),
    "one-step": Chain([0.5]),
    "list": Chain([0.1, 0.3, 0.2, 0.7]),
}
SCHEDULES: dict[str, Schedule] = {
    **CHAINS,
    **{name: schedule() for name, schedule in CONTINUOUS.items()},
    "vp-shifted": CONTINUOUS["vp"]().shifted(-1.5),
    "flow-shifted": CONTINUOUS["flow"]().shifted(2.0),
    "edm-shifted": CONTINUOUS["edm"]().shifted(1.0),
}
