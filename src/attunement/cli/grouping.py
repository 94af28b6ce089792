"""Options in groups: a command takes a few groups, the command line has every option by itself.

Typer reads options from a signature, one parameter each. `flat` gives a command such a signature:
where a parameter is a group, the options of the group stand, under the group's heading in the help.

    @flat
    def tune(target: TargetOptions, machine: MachineOptions) -> None: ...

is to Typer a command with `--constrain`, `--floor`, ..., `--threads`, `--device`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

from typer.models import OptionInfo


class Options:
    """A group of options: a frozen dataclass whose fields are annotated with a `typer.Option`.

    Attributes:
        panel: The heading under which the help shows them; two groups may have the same.
    """

    panel: ClassVar[str]

    def given(self) -> dict[str, Any]:
        """The options that have a value, by name."""
        values = {name: getattr(self, name) for name in _names(type(self))}
        return {name: value for name, value in values.items() if value is not None}


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose options stand one by one, of one that takes some of them in groups."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, type[Options]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        annotation = parameter.annotation
        if isinstance(annotation, type) and issubclass(annotation, Options):
            groups[parameter.name] = annotation
            parameters += _parameters(annotation)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def flattened(**given: Any) -> None:
        grouped = {
            name: group(**{option: given.pop(option) for option in _names(group)})
            for name, group in groups.items()
        }
        command(**given, **grouped)

    flattened.__dict__["__signature__"] = signature.replace(parameters=parameters)
    flattened.__annotations__ = {entry.name: entry.annotation for entry in parameters}
    return flattened


def _names(group: type[Options]) -> list[str]:
    return [entry.name for entry in fields(group)]  # pyright: ignore[reportArgumentType]


def _parameters(group: type[Options]) -> list[inspect.Parameter]:
    """The options of a group, each as a parameter that knows its heading."""
    kinds = get_type_hints(group, include_extras=True)
    found = []
    for name in _names(group):
        kind, option = get_args(kinds[name])
        shown: OptionInfo = copy(option)
        shown.rich_help_panel = group.panel
        default = getattr(group, name, inspect.Parameter.empty)
        found.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[kind, shown],
            )
        )
    return found
