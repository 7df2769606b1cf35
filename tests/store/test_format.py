"""docs/FORMAT.md is true: its byte tables are those of the code, and folders of format 1 stay readable."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from mynosql import batch
from mynosql.row import Leaf, Row
from mynosql.store import filter as filter_module
from mynosql.store import folder, frames, index, shard, streams
from tests.sim.memory_files import MemoryFiles

PAGE = (Path(__file__).parents[2] / "docs" / "FORMAT.md").read_text(encoding="utf-8")


def byte_table(heading: str, position: int = 0) -> list[tuple[int, int, str]]:
    """(offset, bytes, text) of the rows with fixed offsets, in the n-th byte table under this heading."""
    section = re.split(r"^#+ ", PAGE.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    table = section.split("| offset | bytes | field |\n|---|---|---|\n")[1 + position].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    return [(int(at), int(count), text) for at, count, text in rows if at.isdigit() and count.isdigit()]


def offsets_of(layout: struct.Struct) -> list[tuple[int, int]]:
    """Offset and bytes of each field of a packed little-endian layout."""
    found, at = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.format):
        items = [f"{count}s"] if code == "s" else [code] * int(count or 1)
        for item in items:
            size = struct.calcsize("<" + item)
            found.append((at, size))
            at += size
    return found


@pytest.mark.parametrize(
    ("heading", "position", "layouts"),
    [
        ("Identity", 0, [folder._IDENTITY, struct.Struct("<I")]),
        ("Journal", 0, [frames.FILE_HEADER]),
        ("Journal", 1, [frames.FRAME_HEADER]),
        ("Shard", 0, [shard.FILE_HEADER]),
        ("Block", 0, [shard.HEADER]),
        ("Head", 0, [batch._SINGLE_HEAD]),
        ("Filter", 0, [filter_module._START, filter_module._REST]),
    ],
)
def test_byte_tables_are_the_layouts_of_the_code(heading: str, position: int, layouts: list[struct.Struct]) -> None:
    expected = offsets_of(struct.Struct("<" + "".join(layout.format.lstrip("<") for layout in layouts)))
    assert [(at, count) for at, count, _ in byte_table(heading, position)] == expected


@pytest.mark.parametrize(
    ("heading", "position", "magic", "version"),
    [
        ("Identity", 0, folder._IDENTITY_MAGIC, folder.FORMAT),
        ("Journal", 0, frames.MAGIC, frames.FORMAT),
        ("Shard", 0, shard.FILE_MAGIC, shard.FORMAT),
        ("Block", 0, shard.BLOCK_MAGIC, shard.FORMAT),
        ("Filter", 0, filter_module.MAGIC, filter_module.FORMAT),
    ],
)
def test_magics_and_formats_are_those_of_the_code(heading: str, position: int, magic: bytes, version: int) -> None:
    table = byte_table(heading, position)
    assert (table[0][2], table[1][2]) == (f"`{magic.decode()}`", f"format, {version}")


def test_numbers_in_the_text_are_those_of_the_code() -> None:
    assert f"marker, `{frames.MARKER:X}`" in PAGE
    assert f"1 to {shard.ROWS_A_BLOCK_MAX:,}" in PAGE
    assert f"pieces of {streams.PIECE_BYTES:,} raw bytes" in PAGE
    assert f"application id `{index.APPLICATION_ID:X}`, `user_version` {index.FORMAT}" in PAGE
    assert f"top {index.SHORT_HASH_BITS} bits" in PAGE
    words = filter_module.LAYER_KEYS_FIRST * filter_module.BITS_A_KEY // 64
    assert f"has {words:,} words" in PAGE


def test_every_table_and_column_of_the_index_is_listed_and_no_other() -> None:
    section = PAGE.split("## Index\n")[1].split("## Filter")[0]
    listed = {
        cells[1].strip(" `"): re.findall(r"`(\w+)`", cells[2])
        for line in section.splitlines() if line.startswith("| `") and (cells := line.split("|"))
    }
    made = {
        name: re.findall(r"(\w+) (?:INTEGER|BLOB|TEXT)", columns)
        for name, columns in re.findall(r"CREATE TABLE (\w+) \((.*?)\)(?: WITHOUT ROWID)?;", index._SCHEMA, re.DOTALL)
    }
    assert listed == made


def test_files_named_on_the_page_exist_in_the_code() -> None:
    names = {folder.FORMAT_NAME, folder.LOCK_NAME, folder.IDENTITY_NAME, index.FILE_NAME, filter_module.FILE_NAME}
    names |= {shard.shard_name(0), frames.journal_name(0)}
    table = PAGE.split("## Folder\n")[1].split("\n\n")[0]
    assert names <= set(re.findall(r"`([^`]+)`", table))
    for module in re.findall(r"`((?:store|net|mynosql)/\w+\.py)`", PAGE):
        path = Path(__file__).parents[2] / ("" if module.startswith("mynosql") else "mynosql") / module
        assert path.is_file(), module


# What format 1 wrote stays readable: these bytes must never change together with the code that reads them.

ROWS = [
    Row(b"\x10a", (Leaf(1, 0x0102030405060000, 7, False, 3, bytes.fromhex("07e3fdb7b2b5b8ac")),), (b"\x81\xa1x",), 1),
    Row(b"\x10b", (Leaf(2, 0x0102030405070000, 7, True, 0, bytes(8)),), (None,), 2, True),
]


def test_a_journal_of_format_1_is_read() -> None:
    files = MemoryFiles()
    files.write_atomic("journal-00000005", bytes.fromhex(JOURNAL))
    reader = frames.JournalReader(files, "journal-00000005")
    assert [frame.payload for frame in reader] == [b"first", b""]
    assert (reader.torn_bytes, reader.damages) == (0, [])


def test_a_shard_of_format_1_is_read() -> None:
    files = MemoryFiles()
    files.write_atomic("shard-00000003", bytes.fromhex(SHARD))
    shard.check_file_header(files, 3)
    assert shard.read_rows(files, shard.ref_at(files, 3, shard.FILE_HEADER.size)) == ROWS


def test_a_filter_of_format_1_is_read() -> None:
    read, last_segment = filter_module.Filter.unpack(bytes.fromhex(FILTER), path="filter")
    assert (last_segment, [read.might_contain(n) for n in (1, 123_456_789_012, 2)]) == (9, [True, True, False])


JOURNAL = (
    "4d4e53514c6a6e0105000000000000006586d674a50000000005000000ab1ee3d26669727374a50100000000000000dd"
    "96485a"
)
SHARD = (
    "4d4e53514c7368010300000000000000eb051c6a424c4b01fc7164900202000800000005000000490000004200000003"
    "00000000000000030000000000000003dc74f6e00048003a5d00010091513e8ca8afe9da307445fea2799d97b335b17e"
    "388767580207f6bbc82e48a046981b6724a3597125c8b5094d6e400d27523d6682b8c9000081a178"
)
FILTER = (
    "4d4e53514c6266017afcd61b09000000000000000102000000000000007801edd0010d000008c3b0130ce05f2d0a5040"
    "e760ed880001020408102040800001020408102040800001020408102040800001020408102040800001020408102040"
    "800001020408102040800001020408102040800001020408102040800001020408102040800001020408102040800001"
    "020408102040800001020408102040800001020408102040800001020408102040800001020408102040800001020408"
    "102040800001020408102040800001020408102040800001020408102040800001020408102040800001020408102040"
    "800001020408102040800001020408102040800001020408102040800001020408102040800001020408102040800001"
    "020408102040800001020408102040800001020408102040800001020408102040800001020408102040800001020408"
    "102040800001020408102040800001020408102040800001020408102040800001020408102040800001020408102040"
    "800001020408102040800001020408102040800001020408102040800001020408102040e0a7c024f5f3dc3501020408"
    "102040800001020408102040800001020408102040800001020408102040800001020408102040800001020408102040"
    "800001020408102040800001020408102040800001020408102040800001020408102040800001020408102040800001"
    "020408102040800001020408102040800001020408102040800001020408102040800001020408102040800001020408"
    "102040800001020408102040800001020408102040800001020408102040800001020408102040800001020408102040"
    "80c02db0ebf00015"
)
