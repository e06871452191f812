"""Registries: what is chosen by name, of this package, of a user's own code, and of other packages.

A user registers by one call, such as `undiffuse.register_solver("midpoint", Midpoint)`.  A package names the module that makes that call
in an entry point of its pyproject.toml:

    [project.entry-points."undiffuse.solvers"]
    midpoint = "my_package.midpoint"

Entry points are looked at when a name is not known otherwise, and then only the module of that name is imported.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from undiffuse.errors import UsageError

EntryT = TypeVar("EntryT")
NAME = re.compile(r"[^\s,=]{1,100}")


class Registry(Mapping[str, EntryT]):
    """Everything of one kind by name, in the order of registering.

    what: the kind, such as "solver", for messages.   group: of entry points.   known: what this package has itself.
    As a mapping it holds what is registered; looking up a name also finds entry points.
    """

    def __init__(self, what: str, group: str, known: Mapping[str, EntryT] | None = None) -> None:
        self.what, self.group = what, group
        self._known = dict(known or {})
        self._owners = dict.fromkeys(self._known, "undiffuse")

    def register(self, name: str, value: EntryT, owner: Any = None) -> None:
        """Adds `value` under a name.   owner: the class or function of the user that it was made of; `value` itself when left out.

        A class or function that is defined again in a notebook or at the prompt takes its own place.
        Raises UsageError for a name that another has, or with spaces, commas or equals signs in it.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be the name of a {self.what}: give 1 to 100 characters without spaces, commas and equals signs."
            )
        by = _full_name(value if owner is None else owner)
        again = by == self._owners.get(name) and by.startswith("__main__.") and "<" not in by
        if name in self._known and not again:
            raise UsageError(
                f"the name {name!r} is taken: there is a {self.what} of that name by {self._owners[name]}. Choose another name."
            )
        self._known[name], self._owners[name] = value, by

    def find(self, name: str) -> EntryT | None:
        """What has this name, None where nothing has.  Raises UsageError for an entry point that does not register what it says."""
        if name not in self._known:
            for point in self._entry_points():
                if point.name == name:
                    self._load(point)
        return self._known.get(name)

    def checked(self, name: str) -> str:
        """The name itself.  Raises UsageError, with the nearest names, where nothing has it."""
        if self.find(name) is None:
            raise UsageError(no_such(self.what, name, self.names()))
        return name

    def names(self) -> list[str]:
        """All names, also those of entry points that were not imported yet."""
        return list(dict.fromkeys([*self._known, *(point.name for point in self._entry_points())]))

    def __getitem__(self, name: str) -> EntryT:
        """Raises UsageError, with the nearest names, where nothing has this one."""
        return self._known[self.checked(name)]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def _entry_points(self) -> Iterable[EntryPoint]:
        return entry_points(group=self.group)

    def _load(self, point: EntryPoint) -> None:
        package = point.dist.name if point.dist else "an installed package"
        try:
            point.load()
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"the {self.what} {point.name!r} of {package} cannot be imported ({point.value}: {error}): install what it needs."
            ) from error
        if point.name not in self._known:
            raise UsageError(
                f"{package} says that {point.value} registers the {self.what} {point.name!r}, and it does not: tell its authors."
            )


def no_such(what: str, name: object, names: Iterable[str]) -> str:
    """The sentence for a name that nothing has, with the nearest ones."""
    known = list(names)
    close = difflib.get_close_matches(str(name), known, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}? Else " if close else ""
    return f"there is no {what} {name!r}: {hint}choose one of {', '.join(known)}."


def _full_name(value: Any) -> str:
    """Where a class or a function is defined, "module.name"; of anything else, where its class is."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
