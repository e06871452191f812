"""Your own hook: a function that is called between the updates of a training. It cannot change the training."""

import undiffuse

losses = []


def remember(loop, update):
    """Is called after every update."""
    losses.append(update.loss)


@undiffuse.Every(steps=10)
def report(loop, update):
    """Is called after every tenth update, and once at the end."""
    print("step", update.step, "average loss", sum(losses) / len(losses))


@undiffuse.Every(seconds=60)
def careless(loop, update):
    """An error in a hook is shown as a warning. Before that, everything is saved; then the training continues."""
    raise RuntimeError("this hook does not work")


model = undiffuse.train("digits", steps=30, hooks=[remember, report, careless])
print(model)
