"""What a spreadsheet takes for a formula, for every CSV that is written."""

from typing import Final

FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters that make a cell a formula, or that spreadsheets skip before looking; the last four are the
full-width forms of the first four (OWASP, CSV injection)."""
