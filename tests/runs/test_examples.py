"""Examples by name: what they are called, and what is said of those that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.small import images, tiny_config
from undiffuse.conditioning.base import Note
from undiffuse.errors import UsageError
from undiffuse.runs.examples import named_examples


def test_no_two_examples_have_the_same_name(tmp_path):
    for folder, value in zip("ab", images(2), strict=True):
        (tmp_path / folder).mkdir()
        Image.fromarray(value).save(tmp_path / folder / "0.png")
    np.save(tmp_path / "many.npy", images(2)[:, None])
    sources = [str(tmp_path / name) for name in ("a/0.png", "b/0.png", "many.npy")]
    found = named_examples(tmp_path, sources, tiny_config().codec)
    assert found.names == ["0", "0-2", "many-0", "many-1"]
    assert np.array_equal(found.values[:2, 0].numpy(), images(2))


def test_what_is_done_to_an_image_is_a_warning_or_goes_where_one_says(tmp_path):
    Image.fromarray(images(1, (16, 16))[0]).save(tmp_path / "large.png")
    codec, notes = tiny_config().codec, []
    with pytest.warns(Note, match="large.png is 16×16"):
        named_examples(tmp_path, [str(tmp_path / "large.png")], codec)
    with pytest.raises(UsageError, match="there is no file"):  # after the note on the file that was read
        named_examples(tmp_path, [str(tmp_path / "large.png"), "gone.png"], codec, note=notes.append)
    assert len(notes) == 1


def test_examples_of_a_run_need_the_run(tmp_path):
    with pytest.raises(UsageError, match="does not say which data"):
        named_examples(tmp_path, ["data:0"], tiny_config().codec)
