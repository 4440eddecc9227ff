"""Captions of small TFDS datasets that are written here, without TensorFlow."""

import io
import json
import shutil
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


class _Rows(_Builder):
    """Examples of `feature`, as `rows` has them."""

    feature: tuple
    rows: list

    def _info(self):
        name, kind = self.feature
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({name: kind()}))

    def _generate_examples(self):
        for i, row in enumerate(self.rows):
            yield i, {self.feature[0]: row}


def raw():
    return tfds.features.Tensor(shape=(), dtype=np.object_)


def records():
    return tfds.features.Sequence({"text": tfds.features.Text()})


class RatsSomeEmpty(_Rows):
    """Examples without captions, or with a blank one first."""

    feature = "captions", records
    rows = [[{"text": "a cat"}], [], [{"text": " "}], [{"text": ""}, {"text": "a dog"}]]


class RatsBlank(_Rows):
    """Blank captions, more than are read at once."""

    feature = "caption", tfds.features.Text
    rows = ["" if i % 3 else f"caption {i}" for i in range(150)]


class RatsAllBlank(_Rows):
    """Nothing but blanks."""

    feature = "caption", tfds.features.Text
    rows = ["", " \n"]


class RatsLatin(_Rows):
    """A caption that is not UTF-8."""

    feature = "caption", raw
    rows = [b"black cat", b"caf\xe9"]


class RatsNumbers(_Rows):
    """Token ids under the name of a text."""

    feature = "text", lambda: tfds.features.Tensor(shape=(4,), dtype=np.int64)
    rows = [np.arange(4)]


class RatsNumber(_Rows):
    """A number under the name of a caption."""

    feature = "caption", lambda: tfds.features.Scalar(dtype=np.float32)
    rows = [0.5]


class RatsOtherRecords(_Rows):
    """Records without a text."""

    feature = "captions", lambda: tfds.features.Sequence({"id": np.int64})
    rows = [[{"id": 3}]]


PREPARED = (
    RatsPlain,
    RatsCoco,
    RatsLabels,
    RatsSomeEmpty,
    RatsBlank,
    RatsAllBlank,
    RatsLatin,
    RatsNumbers,
) + (
    RatsNumber,
    RatsOtherRecords,
)


@pytest.fixture(scope="module", autouse=True)
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    for builder in PREPARED:
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


@pytest.mark.parametrize(
    "path",
    [
        "tfds:coco_captions",
        "tfds:coco_captions/2014",
        "tfds:coco_captions:1.1.0:val",
        "tfds:coco_captions/2014:1.1.0",
    ],
)
def test_a_dataset_of_the_catalog_is_read_without_its_code(path, data_dir):
    """TFDS has code for this one, which imports TensorFlow."""
    folder = data_dir / "coco_captions" / "2014" / "1.1.0"
    if not folder.exists():
        shutil.copytree(data_dir / "rats_coco" / "1.0.0", folder)
        for file in folder.iterdir():
            if file.name == "dataset_info.json":
                info = json.loads(file.read_text()) | {"name": "coco_captions", "version": "1.1.0"}
                file.write_text(json.dumps(info | {"configName": "2014"}))
            file.rename(folder / file.name.replace("rats_coco", "coco_captions"))
    assert sorted(find_prompts(path)) == sorted(text.strip() for text in TEXTS)
    assert "tensorflow" not in sys.modules


def test_examples_without_a_caption_are_left_out_and_counted(caplog):
    prompts = find_prompts("tfds:rats_some_empty")
    assert (
        sorted(prompts) == ["a cat", "a dog"]
        and prompts[-1] == prompts[1]
        and prompts.name.endswith("without 2")
    )
    with pytest.raises(IndexError):
        prompts[2]
    assert [
        r.getMessage().startswith("2 of 4 examples of 'tfds:rats_some_empty") for r in caplog.records
    ] == [True]
    assert sorted(find_prompts("tfds:rats_blank")) == sorted(f"caption {i}" for i in range(0, 150, 3))


def test_nothing_is_said_where_all_have_captions(caplog):
    assert ":without" not in find_prompts("tfds:rats_plain").name and not caplog.records


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tfds:rats_latin", r"example [01]: expected a caption, found b'caf\\xe9', which is not UTF-8"),
        ("tfds:rats_numbers", "rats_numbers.*:text': example 0: expected a caption, found 0"),
        ("tfds:rats_number", "rats_number.*:caption': example 0: expected a caption, found 0.5"),
        ("tfds:rats_other_records", "example 0: expected a caption, found the fields 'id'"),
        ("tfds:rats_all_blank", "expected at least one prompt, found 2 blank captions"),
    ],
)
def test_captions_that_are_no_text_are_refused_when_they_are_opened(path, message):
    with pytest.raises(ConfigError, match=message) as error:
        find_prompts(path)
    assert str(error.value).startswith("prompts='tfds:rats_") and "\n" not in str(error.value)


def test_a_split_without_an_example_is_one_line(monkeypatch):
    """The package itself refuses those that it is known to have."""
    monkeypatch.setattr(tfds.core.DatasetBuilder, "as_data_source", lambda *_, **__: [])
    with pytest.raises(ConfigError, match="^prompts='tfds:rats_plain': .* one prompt, the split is empty$"):
        find_prompts("tfds:rats_plain")


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
        (
            "tfds:rats_nowhere",
            "prompts='tfds:rats_nowhere': expected a dataset that `tfds build` has prepared",
        ),
        ("tfds:rats_plain:9.0.0", "expected a dataset that `tfds build` has prepared"),
        ("tfds:", "prompts='tfds:': expected 'tfds:NAME"),
        ("tfds:rats_plain:test", "expected a split of the prepared dataset, found 'train', 'val'"),
        ("tfds:rats_labels", "expected one of the features captions, caption, .*, found label"),
    ],
)
def test_what_is_no_set_of_captions_is_refused(path, message):
    with pytest.raises(ConfigError, match=message) as error:
        open_captions(path)
    assert "\n" not in str(error.value)
