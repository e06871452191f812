"""Your own solver: it goes from noise to data, from one noise level to the next."""

import undiffuse
from undiffuse.sampling.solvers.base import Solver, Step, moves


class MyEuler(Solver):
    """Euler's method: it keeps the noise that the network finds, and makes it weaker."""

    def plan(self, levels):
        """Is called once, with all noise levels. It returns one row for each step, with all that x does not change."""
        return moves(levels)

    def step(self, x_t, denoise, row, noise, state):
        """From x_t at the noise level `row.here` to x at the cleaner level `row.there`."""
        here, there = row.here, row.there
        posterior = denoise(x_t, here)  # its mean is what the network believes the clean x is
        clean = posterior.mean
        eps = (x_t - float(here.alpha) * clean) / float(here.sigma)
        return Step(float(there.alpha) * clean + float(there.sigma) * eps, posterior)


undiffuse.register_solver("my_euler", MyEuler)
model = undiffuse.train("digits", steps=30)
mine = model.sample(4, {"class": 3}, solver="my_euler", grid="trailing", steps=20)
ddim = model.sample(4, {"class": 3}, solver="ddim", grid="trailing", steps=20)
print("largest difference to DDIM, which takes the same steps:", (mine - ddim).abs().max().item())
