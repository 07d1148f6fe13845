"""OLE containers, and what older Office programs and Outlook put in them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

_SECTOR, _FREE, _END, _FAT, _NONE = 512, 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFD, 0xFFFFFFFF


def ole(path: Path, streams: Mapping[str, bytes]) -> Path:
    """Write a container. A name may have a folder, as in ``"folder/stream"``. Each stream has 4096 bytes or more."""
    folders = sorted({name.partition("/")[0] for name in streams if "/" in name})
    entries: list[tuple[str, int, bytes, list[int]]] = [("Root Entry", 5, b"", [])]
    for folder in folders:
        entries[0][3].append(len(entries))
        entries.append((folder, 1, b"", []))
    for name, data in streams.items():
        folder, _, leaf = name.rpartition("/")
        entries[1 + folders.index(folder) if folder else 0][3].append(len(entries))
        entries.append((leaf, 2, data.ljust(4096, b"\0"), []))
    siblings = {a: b for entry in entries for a, b in zip(entry[3], entry[3][1:], strict=False)}
    table: list[int] = []
    sectors = b""
    directory = b""
    for i, (name, kind, data, inner) in enumerate(entries):
        start = len(table) if data else _END
        count = -(-len(data) // _SECTOR)
        table += [*range(len(table) + 1, len(table) + count), _END] if data else []
        sectors += data.ljust(count * _SECTOR, b"\0")
        wide = name.encode("utf-16-le")
        links = (siblings.get(i, _NONE), inner[0] if inner else _NONE)
        directory += struct.pack("<64sHBBIII", wide, len(wide) + 2, kind, 1, _NONE, *links)
        directory += struct.pack("<36xIII", start, len(data), 0)
    directory = directory.ljust(-(-len(directory) // _SECTOR) * _SECTOR, b"\0")
    first = len(table)
    count = len(directory) // _SECTOR
    table += [*range(first + 1, first + count), _END]
    fats = 1
    while fats * 128 < len(table) + fats:
        fats += 1
    places = list(range(len(table), len(table) + fats))
    table += [_FAT] * fats
    table += [_FREE] * (fats * 128 - len(table))
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6)
    header += struct.pack("<6xIIIIIIIII", 0, fats, first, 0, 4096, _END, 0, _END, 0)
    header += struct.pack("<109I", *places, *[_FREE] * (109 - fats))
    path.write_bytes(header + sectors + directory + struct.pack(f"<{len(table)}I", *table))
    return path


def doc(path: Path, *pieces: str, flags: int = 0, version: int = 193, encoding: str = "cp1252") -> Path:
    """Write a .doc whose pieces are in turn of one byte, in ``encoding``, and of two bytes for each character."""
    text, positions, places = b"", [0], []
    for i, piece in enumerate(pieces):
        start = 0x400 + len(text)
        places.append(start * 2 | 1 << 30 if i % 2 == 0 else start)
        text += piece.encode(encoding if i % 2 == 0 else "utf-16-le")
        positions.append(positions[-1] + len(piece))
    rows = struct.pack(f"<{len(positions)}I", *positions) + b"".join(struct.pack("<2xI2x", place) for place in places)
    pieces_table = b"\x01\x02\x00ab\x02" + struct.pack("<I", len(rows)) + rows
    main = bytearray(0x400)
    struct.pack_into("<HH6xH", main, 0, 0xA5EC, version, flags)
    struct.pack_into("<II", main, 0x18, 0x400, 0x400 + len(text))
    struct.pack_into("<II", main, 0x1A2, 0, len(pieces_table))
    return ole(path, {"WordDocument": bytes(main) + text, "1Table" if flags & 0x200 else "0Table": pieces_table})


def record(kind: int, data: bytes, instance: int = 0, *, holds_others: bool = False) -> bytes:
    """Return a record of a .ppt."""
    return struct.pack("<HHI", instance << 4 | (15 if holds_others else 0), kind, len(data)) + data


def ppt(path: Path, encrypted: bool = False, broken: bool = False, folder: str = "") -> Path:
    """Write a .ppt with two slides, a note for the second, and an earlier version of the first slide.

    With a ``folder``, the file has slides of PowerPoint 95, and these slides in the folder.
    """
    data = b""
    places = {}

    def put(id: int, made: bytes) -> None:
        nonlocal data
        places[id] = len(data)
        data += made

    def words(text: str) -> bytes:
        return record(0x0FA0, text.encode("utf-16-le"))

    def listed(reference: int, id: int) -> bytes:
        return record(0x03F3, struct.pack("<IIIII", reference, 0, 0, id, 0))

    put(2, record(0x03EE, words("An earlier version"), holds_others=True))
    first_directory = len(data)
    data += record(0x1772, struct.pack("<II", 1 << 20 | 2, places[2]))
    first_edit = len(data)
    data += record(0x0FF5, struct.pack("<IIIIIIHH", 0, 0, 0, first_directory, 1, 5, 0, 0))
    put(2, record(0x03EE, record(0xF00D, words("In a shape"), holds_others=True), holds_others=True))
    put(3, record(0x03EE, record(0x03EF, bytes(24)), holds_others=True))
    put(4, record(0x03F0, record(0x03F1, struct.pack("<II", 257, 0)) + words("Say this."), holds_others=True))
    slides = listed(2, 256) + record(0x0FA8, b"First\rtitle") + listed(3, 257) + words("Second") + words("*")
    lists = record(0x0FF0, slides, 0, holds_others=True) + record(0x0FF0, listed(4, 7), 2, holds_others=True)
    put(1, record(0x03E8, lists, holds_others=True))
    directory = len(data)
    rows = struct.pack("<I4I", 4 << 20 | 1, *(places[id] for id in (1, 2, 3, 4)))
    data += record(0x1772, rows)
    edit = len(data)
    data += record(0x0FF5, struct.pack("<IIIIIIHH", 0, 0, first_edit, directory, 1, 5, 0, 0))
    mark = 0xF3D1C4DF if encrypted else 0xE391C05F
    user = record(0x0FF6, struct.pack("<III", 20, mark, 3 if broken else edit))
    streams = {f"{folder}Current User": user, f"{folder}PowerPoint Document": data}
    return ole(path, streams | ({"PersistentStorage Directory": b"x", "PowerPoint Document": b"x"} if folder else {}))


def msg(path: Path, properties: Mapping[str, str | bytes], sent: int = 0) -> Path:
    """Write a .msg. ``properties`` has texts and bytes by the id of the property, as in ``"folder/3707"``."""
    streams = {"__properties_version1.0": bytes(32) + struct.pack("<IIQ", 0x00390040, 0, sent)}
    for id, value in properties.items():
        folder, _, leaf = id.rpartition("/")
        kind, data = ("001F", value.encode("utf-16-le")) if isinstance(value, str) else ("0102", value)
        streams[f"{folder}{'/' if folder else ''}__substg1.0_{leaf}{kind}"] = data
    return ole(path, streams)


def xls(path: Path, **sheets: list[list[str | float | bool]]) -> Path:
    """Write a .xls of these sheets. Columns are counted from the first."""

    def biff(kind: int, data: bytes) -> bytes:
        return struct.pack("<HH", kind, len(data)) + data

    def cell(row: int, column: int, value: str | float | bool) -> bytes:
        place = struct.pack("<HHH", row, column, 0)
        if isinstance(value, bool):
            return biff(0x0205, place + struct.pack("<BB", value, 0))
        if isinstance(value, str):
            return biff(0x0204, place + struct.pack("<HB", len(value), 1) + value.encode("utf-16-le"))
        return biff(0x0203, place + struct.pack("<d", value))

    def begin(kind: int) -> bytes:
        return biff(0x0809, struct.pack("<HHHHII", 0x0600, kind, 0x0DBB, 0x07CC, 0, 6))

    bodies = [
        begin(0x10)
        + b"".join(cell(i, j, value) for i, row in enumerate(rows) for j, value in enumerate(row))
        + biff(0x000A, b"")
        for rows in sheets.values()
    ]
    start = begin(5)
    place = len(start) + sum(12 + len(name) for name in sheets) + 4
    for name, body in zip(sheets, bodies, strict=True):
        start += biff(0x0085, struct.pack("<IBBBB", place, 0, 0, len(name), 0) + name.encode("ascii"))
        place += len(body)
    return ole(path, {"Workbook": start + biff(0x000A, b"") + b"".join(bodies)})
