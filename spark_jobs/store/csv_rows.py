"""The bytes of a CSV and its rows. Texts that a spreadsheet would run as a formula get an apostrophe."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

# The first characters of a formula, from OWASP's "CSV Injection". The last four are the full-width signs.
FORMULA_START = "([=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20])"
_TEXTS = ("path", "label")


def write_csv(rows: pa.Table) -> bytes:
    """The CSV of rows with the columns `path`, `label` and numbers."""
    content = pa.BufferOutputStream()
    pyarrow.csv.write_csv(_replaced(rows, f"^{FORMULA_START}", r"'\1"), content)
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
    return _replaced(rows, f"^'{FORMULA_START}", r"\1")


def _replaced(rows: pa.Table, pattern: str, replacement: str) -> pa.Table:
    for index, name in enumerate(_TEXTS):
        text = pc.replace_substring_regex(rows.column(name), pattern=pattern, replacement=replacement)
        rows = rows.set_column(index, name, text)
    return rows
