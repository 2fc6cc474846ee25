"""Names, colours and counts come out of the tables as they went in, whichever alphabet and however many pixels."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.shutil
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from laws import examples

from aerial_seg.errors import OutputError
from aerial_seg.legend import make_legend
from aerial_seg.outputs.attribute_table import attribute_table, class_rows, write_value_table

LEGEND = make_legend({7: "水域", 0: "background", 1: "Gebäude", 3: "дорога"}, background=[0])
COUNTS = {0: 5_000_000_000, 1: 12, 7: 1, 255: 99}


def test_there_is_a_row_per_class_by_value() -> None:
    assert [(row.value, row.name, row.count) for row in class_rows(LEGEND, COUNTS)] == [
        (0, "background", 5_000_000_000),
        (1, "Gebäude", 12),
        (3, "дорога", 0),
        (7, "水域", 1),
    ]


def test_codes_have_a_column_where_there_are_some(tmp_path: Path) -> None:
    coded = make_legend({0: "background", 1: "forest", 2: "sea"}, codes={1: 311, 2: 523})
    table, _ = write_value_table(tmp_path / "map.tif", coded, {})
    read = pyogrio.read_dataframe(table)
    assert list(read.columns) == ["VALUE", "CLASS", "COUNT", "RED", "GREEN", "BLUE", "CODE"]
    assert [code or None for code in read.CODE.fillna("")] == [None, "311", "523"]
    element = attribute_table(coded, {})
    assert [field.findtext("Name") for field in element.iter("FieldDefn")][-1] == "Code"
    assert [row.findall("F")[-1].text or "" for row in element.iter("Row")] == ["", "311", "523"]


class TestValueTable:
    def test_names_of_any_alphabet_and_large_counts_survive(self, tmp_path: Path) -> None:
        table, codepage = write_value_table(tmp_path / "map.tif", LEGEND, COUNTS)
        assert (table.name, codepage.name) == ("map.tif.vat.dbf", "map.tif.vat.cpg")
        assert set(tmp_path.iterdir()) == {table, codepage}
        read = pyogrio.read_dataframe(table)
        assert list(read.columns) == ["VALUE", "CLASS", "COUNT", "RED", "GREEN", "BLUE"]
        for row, entry in zip(read.itertuples(), sorted(LEGEND.entries, key=lambda e: e.value), strict=True):
            assert (entry.value, entry.name, COUNTS.get(entry.value, 0)) == (row.VALUE, row.CLASS, row.COUNT)
            assert entry.rgb == (row.RED, row.GREEN, row.BLUE)

    def test_no_date_tells_two_runs_apart(self, tmp_path: Path) -> None:
        table, _ = write_value_table(tmp_path / "map.tif", LEGEND, COUNTS)
        # Years since 1900, month, day: the date that GDAL takes when nobody says.
        assert table.read_bytes()[1:4] == bytes([95, 7, 26])

    def test_it_replaces_an_older_one(self, tmp_path: Path) -> None:
        for counts in ({1: 5}, {1: 6}):
            table, _ = write_value_table(tmp_path / "map.tif", LEGEND, counts)
            assert pyogrio.read_dataframe(table).COUNT.sum() == counts[1]

    def test_a_reader_may_give_the_columns_in_any_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As pyogrio before 0.13 does: the table is read back before it counts as written."""
        given = pyogrio.raw.read

        def turned(*arguments: Any, **named: Any) -> Any:
            meta, fids, geometry, columns = given(*arguments, **named)
            return {**meta, "fields": meta["fields"][::-1]}, fids, geometry, columns[::-1]

        monkeypatch.setattr(pyogrio.raw, "read", turned)
        table, _ = write_value_table(tmp_path / "map.tif", LEGEND, COUNTS)
        assert table.exists()

    @pytest.mark.filterwarnings("error")
    @settings(max_examples=examples(20), suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        names=st.lists(
            # Without what no class can be called: control, hidden and unassigned characters.
            st.text(
                st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=300
            ),
            min_size=1,
            max_size=5,
        )
    )
    def test_any_name_is_taken_as_far_as_it_fits(self, tmp_path: Path, names: list[str]) -> None:
        legend = make_legend({value: f"{value}{name}" for value, name in enumerate(names)})
        table, _ = write_value_table(tmp_path / "map.tif", legend, {})
        read = pyogrio.read_dataframe(table)
        assert read.VALUE.tolist() == list(range(len(names)))
        for got, name in zip(read.CLASS, legend.names, strict=True):
            assert name.startswith(got)
            # A DBF fills up with blanks.
            assert got == name or len(name[len(got) :].strip()) == 0 or len(got.encode()) > 254 - 4

    @pytest.mark.parametrize("size", [2, 40, 300])
    def test_a_full_disk_is_one_line_and_no_table(self, tmp_path: Path, size: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(OutputError, match=r"map.tif.vat.dbf .*free disk space") as raised:
                write_value_table(tmp_path / "map.tif", LEGEND, COUNTS)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(raised.value)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_gdal_itself_reads_the_attribute_table(tmp_path: Path) -> None:
    source = tmp_path / "map.tif"
    with rasterio.open(source, "w", driver="GTiff", height=9, width=9, count=1, dtype="uint8") as file:
        file.write(np.zeros((1, 9, 9), np.uint8))
    root = Xml.Element("PAMDataset")
    Xml.SubElement(root, "PAMRasterBand", band="1").append(attribute_table(LEGEND, COUNTS))
    Xml.ElementTree(root).write(tmp_path / "map.tif.aux.xml")
    # GDAL's PNG driver keeps what its source has in an .aux.xml of its own.
    rasterio.shutil.copy(source, tmp_path / "copy.png", driver="PNG")
    table = Xml.parse(tmp_path / "copy.png.aux.xml").find(".//GDALRasterAttributeTable")
    assert table is not None
    assert table.attrib["tableType"] == "thematic"
    fields = [(f.findtext("Name"), f.findtext("Type"), f.findtext("Usage")) for f in table.iter("FieldDefn")]
    # Usages: 5 value, 2 name, 1 pixel count, 6 to 8 the colours; types: 0 integer, 1 real, 2 text.
    assert fields == [
        ("Value", "0", "5"),
        ("Class", "2", "2"),
        ("Count", "1", "1"),
        ("Red", "0", "6"),
        ("Green", "0", "7"),
        ("Blue", "0", "8"),
    ]
    rows = [[cell.text for cell in row.iter("F")] for row in table.iter("Row")]
    assert [(int(r[0] or ""), r[1], float(r[2] or ""), tuple(map(int, r[3:]))) for r in rows] == [
        (row.value, row.name, row.count, (row.red, row.green, row.blue)) for row in class_rows(LEGEND, COUNTS)
    ]
