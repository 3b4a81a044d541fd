"""What --data says beyond a place: options after a colon, as in birds.csv:label=species,split=part."""

import re
from collections.abc import Sequence

from fcmae.core.errors import UserError

_OPTIONS = re.compile(r"(?P<place>.+?):(?P<options>\w+=[^,=/]*(,\w+=[^,=/]*)*)")


def place_of(spec: str) -> str:
    """Return what stands before the options."""
    found = _OPTIONS.fullmatch(spec)
    return found["place"] if found else spec


def options_of(spec: str, known: Sequence[str]) -> dict[str, str]:
    """Return the options, by name.

    Args:
        spec: what --data says
        known: names that there are

    Raises:
        UserError: another name, or one twice
    """
    found = _OPTIONS.fullmatch(spec)
    options: dict[str, str] = {}
    for option in found["options"].split(",") if found else ():
        name, _, value = option.partition("=")
        if name not in known:
            raise UserError(f"{spec}: no option {name!r} is known here; choose from {', '.join(known)}")
        if name in options or not value:
            raise UserError(f"{spec}: give the option {name} once, and a value with it")
        options[name] = value
    return options
