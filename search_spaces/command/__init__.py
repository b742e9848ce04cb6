"""What every command line shares: typed flags and one-line errors, atomic files, typed JSON, pages."""

from search_spaces.command.flags import (
    Flags,
    UserError,
    amend,
    check_given,
    check_idle,
    fill,
    flag,
    flags_given,
    given,
    parse,
    run,
    settings,
    spell,
)
from search_spaces.command.terminal import align, quiet, reason

__all__ = [
    "Flags",
    "UserError",
    "align",
    "amend",
    "check_given",
    "check_idle",
    "fill",
    "flag",
    "flags_given",
    "given",
    "parse",
    "quiet",
    "reason",
    "run",
    "settings",
    "spell",
]
