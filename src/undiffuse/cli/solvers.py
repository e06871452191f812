"""undiffuse solvers"""

from __future__ import annotations

NOTES = """order: of convergence to the flow's solution, * without --order.  cost: evaluations of the network a step.
grid: taken where --grid is left out; the model's own where none is listed.
--lower-order-final: of those with several orders but no blocks; the k-th last step is of order k at most."""
GRID_NOTES = (
    "settings: --sigma-max and --sigma-min of all but every, --rho of karras and polyexponential, --steps-offset of leading, "
    "--interpolation on chains, --final-sigma."
)


def solvers() -> None:
    """List the solvers and grids to sample with."""
    from rich.console import Console
    from rich.table import Table

    from undiffuse.process.schedules import CONTINUOUS
    from undiffuse.sampling.grids import GRIDS
    from undiffuse.sampling.solvers.registry import SOLVERS, Settings, make_solver

    table = Table(title="Solvers (--solver)", title_justify="left", box=None, pad_edge=False)
    for column in ("name", "order", "cost", "noise", "grid", "settings"):
        table.add_column(column, no_wrap=True, style="bold" if column == "name" else None)
    table.add_column("what it is")
    for name, entry in SOLVERS.items():
        solver = make_solver(name, Settings(), CONTINUOUS["vp"]())
        default = entry.orders[0] if len(entry.orders) > 1 else None
        orders = " ".join(f"{order}*" if order == default else str(order) for order in sorted(entry.orders))
        settings, noise = " ".join(f"--{setting}" for setting in entry.has), "yes" if solver.stochastic else ""
        table.add_row(name, orders, str(solver.evaluations or "?"), noise, entry.grid or "", settings, entry.what)
    title = "\nGrids (--grid), or a spacing of the papers: 250, 10,15,20, ddim50"
    grids = Table(title=title, title_justify="left", box=None, pad_edge=False)
    grids.add_column("name", style="bold")
    grids.add_column("what it is")
    for name, grid in GRIDS.items():
        grids.add_row(name, (grid.__doc__ or "").splitlines()[0].rstrip(".:"))
    for part in (table, NOTES, grids, GRID_NOTES):
        Console().print(part)
