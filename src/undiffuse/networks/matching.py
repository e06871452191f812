"""Which parts of one network are those of another, where one of them has more: attention to tokens, say."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher

from torch import nn


def match_parameters(old: nn.Module, new: nn.Module, of_old: str = "", of_new: str = "") -> Iterator[tuple[str, str]]:
    """(name in new, name in old) of the parameters that belong together, of whatever shapes.

    Parts belong together by their names; the parts of a sequence by their classes, in order, since what comes in between
    moves the numbers of all that follow.
    """
    for name in new._parameters:
        if new._parameters[name] is not None and old._parameters.get(name) is not None:
            yield of_new + name, of_old + name
    before, after = list(old.named_children()), list(new.named_children())
    if isinstance(new, nn.Sequential | nn.ModuleList):
        a, b = ([type(module).__name__ for _, module in children] for children in (before, after))
        blocks = SequenceMatcher(None, a, b, autojunk=False).get_matching_blocks()
        pairs = [(before[block.a + k], after[block.b + k]) for block in blocks for k in range(block.size)]
    else:
        known = dict(before)
        pairs = [
            ((name, known[name]), (name, m)) for name, m in after if name in known and type(known[name]) is type(m)
        ]
    for (name_old, part_old), (name_new, part_new) in pairs:
        yield from match_parameters(part_old, part_new, f"{of_old}{name_old}.", f"{of_new}{name_new}.")
