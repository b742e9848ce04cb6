"""What every command line shares: typed flags and one-line errors, atomic files, typed JSON, pages."""

from search_spaces.command.flags import UserError, align, flag, flags_given, parse, quiet, run, spell

__all__ = ["UserError", "align", "flag", "flags_given", "parse", "quiet", "run", "spell"]
