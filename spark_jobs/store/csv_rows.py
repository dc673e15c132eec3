"""The bytes of a CSV and its rows. Texts that a spreadsheet would run as a formula get an apostrophe."""

import re

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

# The first characters of a formula, from OWASP's "CSV Injection"
# (https://owasp.org/www-community/attacks/CSV_Injection). The last four are the full-width signs. A text may
# become two cells at a semicolon, which separates cells in French and German Excel. Apostrophes before a
# formula count too, so that two texts never look alike in a CSV.
_FORMULA = "'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
_PLAIN, _ESCAPED = f"(^|;)({_FORMULA})", f"(^|;)'({_FORMULA})"
_TEXTS = ("path", "label")


def without_formulas(text: str) -> str:
    """The text with an apostrophe before each place where a spreadsheet may see a formula."""
    return re.sub(_PLAIN, r"\1'\2", text)


def write_csv(rows: pa.Table) -> bytes:
    """The CSV of rows with the columns `path`, `label` and numbers."""
    content = pa.BufferOutputStream()
    pyarrow.csv.write_csv(_replaced(rows, _PLAIN, r"\1'\2"), content)
    return content.getvalue().to_pybytes()  # type: ignore[no-any-return]


def read_csv(content: bytes) -> pa.Table:
    """The rows of a CSV. Paths and labels are text, without the apostrophe before a formula."""
    rows = pyarrow.csv.read_csv(
        pa.BufferReader(content),
        # A file name may contain a line break.
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        # By default, "nan" would become no value.
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(_TEXTS, pa.string()), null_values=[]
        ),
    )
    for index, name in enumerate(rows.schema.names[len(_TEXTS) :], len(_TEXTS)):
        rows = rows.set_column(index, name, rows.column(name).cast(pa.float64()))  # also whole numbers
    return _replaced(rows, _ESCAPED, r"\1\2")


def _replaced(rows: pa.Table, pattern: str, replacement: str) -> pa.Table:
    for index, name in enumerate(_TEXTS):
        text = pc.replace_substring_regex(rows.column(name), pattern=pattern, replacement=replacement)
        rows = rows.set_column(index, name, text)
    return rows
