"""undiffuse solvers"""

from __future__ import annotations


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
        orders = " ".join(
            f"{order}*" if order == entry.orders[0] and len(entry.orders) > 1 else str(order)
            for order in sorted(entry.orders)
        )
        settings = " ".join(f"--{setting}" for setting in entry.has)
        table.add_row(
            name,
            orders,
            str(solver.evaluations or "?"),
            "yes" if solver.stochastic else "",
            entry.grid or "",
            settings,
            entry.what,
        )
    grids = Table(
        title="\nGrids (--grid), or a spacing of the papers: 250, 10,15,20, ddim50",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    grids.add_column("name", style="bold")
    grids.add_column("what it is")
    for name, grid in GRIDS.items():
        grids.add_row(name, (grid.__doc__ or "").splitlines()[0].rstrip(".:"))
    console = Console()
    console.print(table)
    console.print(
        "order: of convergence to the flow's solution, * without --order.  cost: evaluations of the network a step."
    )
    console.print("grid: taken where --grid is left out; the model's own where none is listed.")
    console.print(
        "--lower-order-final: of those with several orders but no blocks; the k-th last step is of order k at most."
    )
    console.print(grids)
    console.print(
        "settings: --sigma-max and --sigma-min of all but every, --rho of karras and polyexponential, --steps-offset of leading, --interpolation "
        "on chains, --final-sigma."
    )
