"""Captions of small TFDS datasets that are written here, without TensorFlow."""

import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from rats_jax.data.captions import open_captions
from rats_jax.data.prompts import find_prompts, make_prompt_iterator
from rats_jax.errors import ConfigError

TEXTS = ["a red kite", "grüne Äpfel ", "three dogs on a boat"]


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


class _Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "val": self._generate_examples()}


class RatsPlain(_Builder):
    """One caption as a text."""

    def _info(self):
        features = tfds.features.FeaturesDict(
            {"image": tfds.features.Image(), "caption": tfds.features.Text()}
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self):
        for i, text in enumerate(TEXTS):
            yield i, {"image": png(), "caption": text}


class RatsCoco(_Builder):
    """Several captions as records, as coco_captions has them."""

    def _info(self):
        captions = tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64})
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(), "captions": captions})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self):
        for i, text in enumerate(TEXTS):
            records = [{"text": text, "id": i}, {"text": "another", "id": 100 + i}]
            yield i, {"image": png(), "captions": records}


class RatsLabels(_Builder):
    """Pictures with classes and no words."""

    def _info(self):
        features = tfds.features.FeaturesDict({"label": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self):
        yield 0, {"label": 1}


@pytest.fixture(scope="module", autouse=True)
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    for builder in (RatsPlain, RatsCoco, RatsLabels):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(folder))
        patch.setattr(tfds.core.constants, "DATA_DIR", str(folder))
        yield folder


@pytest.mark.parametrize("path", ["tfds:rats_plain", "tfds:rats_coco:train", "tfds:rats_coco:1.0.0:val"])
def test_the_first_caption_of_every_example_is_a_prompt(path):
    prompts = find_prompts(path)
    assert len(prompts) == 3 and sorted(prompts) == sorted(text.strip() for text in TEXTS)
    assert prompts[:2] == [prompts[0], prompts[1]] and prompts[-1] == prompts[2]
    with pytest.raises(IndexError):
        prompts[3]
    assert "tensorflow" not in sys.modules


def test_a_slice_of_a_split():
    assert len(find_prompts("tfds:rats_plain:train[:2]")) == 2


def test_positions_belong_to_a_dataset():
    first, second = (
        make_prompt_iterator(find_prompts(path), batch_size=2, seed=0)
        for path in ("tfds:rats_plain", "tfds:rats_coco")
    )
    state = first.get_state()
    batch = next(first)
    again = make_prompt_iterator(find_prompts("tfds:rats_plain"), batch_size=2, seed=0)
    again.set_state(state)
    np.testing.assert_array_equal(next(again), batch)
    with pytest.raises(ConfigError, match="expected those with which the run began"):
        second.set_state(state)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tfds:rats_nowhere", "prompts='tfds:rats_nowhere': expected a TFDS dataset"),
        ("tfds:", "prompts='tfds:': expected 'tfds:NAME"),
        ("tfds:rats_plain:test", "expected a split of the prepared dataset, found 'train', 'val'"),
        ("tfds:rats_labels", "expected one of the features captions, caption, .*, found label"),
    ],
)
def test_what_is_no_set_of_captions_is_refused(path, message):
    with pytest.raises(ConfigError, match=message) as error:
        open_captions(path)
    assert "\n" not in str(error.value)
