"""GME's folder, which has modules and a model class of its own: it reads images by its profile, and no code runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import published_folders
from helpers.vision_families import PIXELS, TEXT, picture

from smart_rag import SmartEncoder
from smart_rag.errors import ModelNotFound
from smart_rag.types import Content

pytestmark = pytest.mark.usefixtures("one_thread")

CONTENTS = [Content(TEXT), Content("Dogs", picture(60, 60)), Content(image=picture(80, 60))]


@pytest.mark.parametrize("trusts", [False, True])
def test_it_is_a_qwen2_vl_with_gmes_profile(tmp_path, trusts):
    """Even if the user trusts the code, it is not run: as of 2025, it reads only texts there."""
    encoder = SmartEncoder(published_folders.gme(tmp_path / "gme"), max_pixels=PIXELS, trust_remote_code=trusts)
    plain = published_folders.qwen2_vl(tmp_path / "plain")
    other = SmartEncoder(plain, profile="gme-qwen2-vl", max_pixels=PIXELS)
    assert encoder.fingerprint == other.fingerprint
    mine, theirs = encoder.encode_document(CONTENTS), other.encode_document(CONTENTS)
    np.testing.assert_array_equal(mine.pooled, theirs.pooled)
    for a, b in zip(mine.tokens, theirs.tokens, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_modules_of_another_family_are_refused(tmp_path):
    """Only a family whose profile says all that its modules say goes without them."""
    folder = Path(published_folders.gme(tmp_path))
    for name in ("modeling_gme_qwen2vl.py", "gme_inference.py"):
        (folder / name).unlink()
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelNotFound, match=r"has the module 'custom_st.MultiModalTransformer'"):
        SmartEncoder(folder)
    assert SmartEncoder(folder, profile="gme-qwen2-vl").modalities == {"text", "image", "video"}
