"""Reports as files: CSV and XLSX. What a spreadsheet would take for a formula is made a text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import xlsxwriter

from reporting.formulas import FORMULA_STARTS


def harmless(value: Any) -> Any:
    """`value` as a spreadsheet may have it: a text that begins like a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """RFC 4180 in UTF-8 with a header; None is empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([harmless(row[column]) for column in columns] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def as_xlsx(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], facts: Mapping[str, str]) -> bytes:
    """A workbook: the report with a header that stays, and a sheet with what it is about. Texts are never formulas."""
    file = io.BytesIO()
    with xlsxwriter.Workbook(file, {"constant_memory": True, "strings_to_urls": False}) as book:
        bold = book.add_format({"bold": True})
        sheet = book.add_worksheet("report")
        sheet.freeze_panes(1, 0)
        sheet.set_column(0, len(columns) - 1, 18)
        for index, column in enumerate(columns):
            sheet.write_string(0, index, column, bold)
        sheet.autofilter(0, 0, len(rows), len(columns) - 1)
        for number, row in enumerate(rows, 1):
            for index, column in enumerate(columns):
                value = row[column]
                if isinstance(value, str):
                    sheet.write_string(number, index, value)
                elif value is not None:
                    sheet.write_number(number, index, value)
        about = book.add_worksheet("about")
        about.set_column(0, 1, 30)
        for number, (name, text) in enumerate(facts.items()):
            about.write_string(number, 0, name, bold)
            about.write_string(number, 1, text)
    return file.getvalue()
