"""`StoredRows`: rows on disk, to bring them back."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.rows import create, row, unit_rows

from smart_rag.errors import CorruptStore
from smart_rag.store.pending import StoredRows

ROWS = StoredRows(["ä", "b"], ["Text", None], [{"x": 1.5, "y": True, "z": ["1", "2"]}, None], unit_rows(2, 3))


@pytest.mark.parametrize("rows", [ROWS, ROWS.part(slice(0, 0))], ids=["two", "none"])
def test_bytes(rows):
    again = StoredRows.unpacked(rows.packed())
    assert again.columns() == rows.columns()
    np.testing.assert_array_equal(again.pooled.ravel(), rows.pooled.ravel())


def test_the_bytes_of_one_row():
    """As docs/format.md has them. Two indexes of the same version must agree."""
    value = StoredRows(["ä"], ["Text"], [{"x": 1.5}], np.asarray([[1, 0]], dtype=np.float32)).packed()
    text = b'[["\\u00e4", "Text", {"x": 1.5}]]'
    assert value[8:] == len(text).to_bytes(8, "little") + text + bytes.fromhex("0000803f00000000")


@pytest.mark.parametrize("damage", [lambda value: value[:10], lambda value: value[:-1], lambda value: b"x" + value])
def test_damage(damage):
    with pytest.raises(CorruptStore, match="the record of the batch that was interrupted fails its checksum"):
        StoredRows.unpacked(damage(ROWS.packed()))


def test_rows_come_back(tmp_path):
    """Also where the new row has other metadata, and vectors. Rows without new rows come back after a removal."""
    store = create(tmp_path / "chroma")
    old = [row("a", "one", x=1, gone=[1]), row("b", "two")]
    store.upsert(old, unit_rows(2, 3))
    before = store.stored(["a", "b", "nobody"])
    assert store.rows(before) == old
    new = [row("a", "other", number=7, y=None)]
    undo = StoredRows.unpacked(store.undo_of(new, before).packed())
    store.upsert(new, unit_rows(1, 3, seed=1))
    store.delete(["b"])
    for _ in range(2):
        store.write(undo)
        assert store.get(["a", "b"]) == {one.document.id: one for one in old}
        assert store.rows(undo) == old
        np.testing.assert_allclose(store.embeddings(["a"])["a"], unit_rows(2, 3)[0], rtol=0, atol=1e-6)
    store.close()
