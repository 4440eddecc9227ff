"""Picture files of many kinds: each is read as a viewer shows it, or refused in one line that names it."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from rats_jax.data.pictures import CONTACT_SHEET, find_pictures, picture_size, read_picture
from rats_jax.errors import ConfigError

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.random.default_rng(0).integers(0, 256, (10, 16, 3), np.uint8)


def read_bytes(file):
    """The picture as [H, W, 3] of 0 .. 255, and no other values."""
    values = 255 * read_picture(file)
    np.testing.assert_allclose(values, np.round(values), atol=1e-4)
    assert values.shape == (*picture_size(file), 3)
    return np.round(values).astype(np.uint8)


def as_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


def write_tiff(file, values, *, bits, kind, white_is_zero=False, orientation=1):
    """A TIFF of one grey strip by hand; kind 1 is unsigned, 2 signed, 3 float."""
    content = values if isinstance(values, bytes) else values.tobytes()
    fields = [(256, 16), (257, 16), (258, bits), (259, 1), (262, 0 if white_is_zero else 1), (273, 0)]
    fields += [(274, orientation), (277, 1), (279, len(content)), (339, kind)]
    start = 8 + 2 + 12 * len(fields) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in fields]
    head = b"II*\0" + struct.pack("<IH", 8, len(fields))
    file.write_bytes(head + b"".join(entries) + struct.pack("<I", 0) + content)


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def write_png(file, *, width, height, rows, extra=b"", bits=8, kind=2):
    """A PNG by hand; kind 0 is grey, 2 RGB."""
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", content) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def packed_in_12_bits(values):
    pairs = values.reshape(-1, 2).astype(int)
    return b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)


def _scaled(white, dtype):
    return (GREY.astype(np.int64) * white // 255).astype(dtype)


TIFFS = {
    "16 bits": (_scaled(2**16 - 1, "<u2"), 16, 1),
    "16 bits with a sign": (_scaled(2**15 - 1, "<i2"), 16, 2),
    "12 bits": (packed_in_12_bits(_scaled(2**12 - 1, "<u2")), 12, 1),
    "32 bits": (_scaled(2**32 - 1, "<u4"), 32, 1),
    "32 bits with a sign": (_scaled(2**31 - 1, "<i4"), 32, 2),
    "16 bits in 32": (_scaled(2**16 - 1, "<i4"), 32, 2),
    "8 bits in 32": (_scaled(255, "<i4"), 32, 2),
    "floats to 1": ((GREY / 255).astype("<f4"), 32, 3),
    "floats to 255": (GREY.astype("<f4"), 32, 3),
    "floats to 65535": (GREY.astype("<f4") * 257, 32, 3),
}


@pytest.mark.parametrize("case", TIFFS)
def test_a_deep_grey_tiff_is_scaled_by_its_depth(tmp_path, case):
    values, bits, kind = TIFFS[case]
    write_tiff(tmp_path / "a.tif", values, bits=bits, kind=kind)
    np.testing.assert_array_equal(read_bytes(tmp_path / "a.tif"), as_rgb(GREY))


@pytest.mark.parametrize("case", ["16 bits", "floats to 1"])
def test_white_may_be_zero(tmp_path, case):
    values, bits, kind = TIFFS[case]
    write_tiff(tmp_path / "a.tif", values, bits=bits, kind=kind, white_is_zero=True)
    np.testing.assert_array_equal(read_bytes(tmp_path / "a.tif"), as_rgb(255 - GREY))


def test_floats_that_overshoot_white_are_white(tmp_path):
    write_tiff(tmp_path / "a.tif", (GREY / 255 * 1.1 - 0.05).astype("<f4"), bits=32, kind=3)
    expected = np.round(np.clip(GREY / 255 * 1.1 - 0.05, 0, 1) * 255)
    np.testing.assert_allclose(read_bytes(tmp_path / "a.tif")[..., 0], expected, atol=1)


@pytest.mark.parametrize("name", ["a.png", "a.pgm", "a.jp2", "a.tif", "big_endian.tif"])
def test_16_bits_of_grey_are_scaled_in_every_format(tmp_path, name):
    deep = GREY.astype(np.uint16) * 257
    Image.fromarray(deep.astype(">u2") if "big" in name else deep).save(tmp_path / name)
    np.testing.assert_array_equal(read_bytes(tmp_path / name), as_rgb(GREY))


def test_a_dark_picture_of_16_bits_stays_dark(tmp_path):
    Image.fromarray(4 * GREY.astype(np.uint16)).save(tmp_path / "a.png")
    assert read_bytes(tmp_path / "a.png").max() == 3


def test_greys_of_16_bits_are_those_of_colours_of_16_bits(tmp_path):
    deep = np.arange(0, 65536, 37, np.uint16)[:1600].reshape(16, 100)
    Image.fromarray(deep).save(tmp_path / "grey.png")
    Image.fromarray((deep / np.float32(65535)).astype(np.float32)).save(tmp_path / "float.tif")
    rows = [np.repeat(row.astype(">u2"), 3).tobytes() for row in deep]
    write_png(tmp_path / "colour.png", width=100, height=16, rows=rows, bits=16)
    expected = as_rgb((deep >> 8).astype(np.uint8))
    for name in ("grey.png", "float.tif", "colour.png"):
        np.testing.assert_array_equal(read_bytes(tmp_path / name), expected)


def test_16_bits_of_colour_and_of_grey_with_a_transparent_value(tmp_path):
    rows = [(row.astype(np.uint16) * 257).astype(">u2").tobytes() for row in COLOURS]
    write_png(tmp_path / "a.png", width=16, height=10, rows=rows, bits=16)
    np.testing.assert_array_equal(read_bytes(tmp_path / "a.png"), COLOURS)
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "b.png", transparency=257 * 7)
    np.testing.assert_array_equal(read_bytes(tmp_path / "b.png"), as_rgb(np.where(GREY == 7, 255, GREY)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_floats_that_are_no_light_are_refused(tmp_path, value):
    write_tiff(tmp_path / "a.tif", np.full((16, 16), value, "<f4"), bits=32, kind=3)
    with pytest.raises(ConfigError, match=r"a.tif': expected a readable picture \(it"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA"])
def test_every_kind_of_picture_becomes_rgb_on_white(tmp_path, mode):
    rng = np.random.default_rng(0)
    bands = len(Image.new(mode, (1, 1)).getbands())
    if mode == "P":
        picture = Image.fromarray(rng.integers(0, 255, (5, 7, 3), np.uint8)).quantize(8)
    else:
        values = rng.integers(0, 255, (5, 7, bands), np.uint8)
        picture = Image.fromarray(values.squeeze() if bands == 1 else values, mode)
    picture.save(tmp_path / "a.png")
    actual = read_picture(tmp_path / "a.png")
    assert actual.shape == (5, 7, 3) and actual.dtype == np.float32
    assert picture_size(tmp_path / "a.png") == (5, 7)
    rgba = np.asarray(picture.convert("RGBA"), np.float64) / 255
    expected = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    np.testing.assert_allclose(actual, expected, atol=1.01 / 255)


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "LAB", "RGBX", "I;16", "F"])
def test_every_mode_of_a_tiff_is_read(tmp_path, mode):
    Image.new(mode, (4, 3)).save(tmp_path / "a.tif")
    assert read_picture(tmp_path / "a.tif").shape == (3, 4, 3)


def test_ink_is_dark(tmp_path):
    picture = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    picture.save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_bytes(tmp_path / "a.tif")[0, 0], [255, 0, 0])


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "avif"])
@pytest.mark.parametrize("number", range(1, 9))
def test_a_picture_is_turned_as_its_metadata_says(tmp_path, suffix, number):
    exif, file = Image.Exif(), tmp_path / f"a.{suffix}"
    exif[274] = number
    if suffix == "tif":
        write_tiff(file, GREY, bits=8, kind=1, orientation=number)
    else:
        Image.fromarray(COLOURS).save(file, exif=exif)
    with Image.open(file) as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    np.testing.assert_array_equal(read_bytes(file), expected)
    if suffix == "png" and number == 6:  # the right side lies on top
        np.testing.assert_array_equal(expected, np.rot90(COLOURS, -1))


def test_a_tiff_on_its_side_has_the_size_that_is_shown(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(COLOURS).save(tmp_path / "a.tif", exif=exif)
    np.testing.assert_array_equal(read_bytes(tmp_path / "a.tif"), np.rot90(COLOURS, -1))


def test_damaged_orientation_leaves_a_picture_as_it_lies(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=b"Exif\0\0nothing of the kind")
    np.testing.assert_array_equal(read_bytes(tmp_path / "a.png"), COLOURS)


def linear_profile(space):
    """A profile of linear light, by hand: the primaries of sRGB as seen at D50, or grey."""

    def number(*values):
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    white = (0.9642, 1.0, 0.8249)
    curve = b"curv" + struct.pack(">III", 0, 0, 0)
    if space == b"GRAY":
        tags = [(b"wtpt", b"XYZ \0\0\0\0" + number(*white)), (b"kTRC", curve)]
    else:
        primaries = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
        tags = [(b"wtpt", b"XYZ \0\0\0\0" + number(*white))]
        tags += [
            (c + b"XYZ", b"XYZ \0\0\0\0" + number(*p))
            for c, p in zip((b"r", b"g", b"b"), primaries, strict=True)
        ]
        tags += [(c + b"TRC", curve) for c in (b"r", b"g", b"b")]
    start, index, content = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags:
        index += name + struct.pack(">II", start + len(content), len(value))
        content += value + b"\0" * (-len(value) % 4)
    body = struct.pack(">I", len(tags)) + index + content
    header = struct.pack(
        ">I4sI4s4s4s12x4s28x", 128 + len(body), b"", 0x02400000, b"mntr", space, b"XYZ ", b"acsp"
    )
    return (header + number(*white)).ljust(128, b"\0") + body


def from_linear(values):
    """Source: IEC 61966-2-1, the curve of sRGB."""
    light = values / 255
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    ("mode", "space"), [("RGB", b"RGB "), ("L", b"GRAY"), ("L", b"RGB "), ("P", b"RGB ")]
)
def test_colours_go_from_the_profile_to_srgb(tmp_path, mode, space):
    picture = Image.fromarray(COLOURS).convert(mode)
    picture.save(tmp_path / "a.png", icc_profile=linear_profile(space))
    before = np.asarray(picture.convert("RGB"))
    # Little CMS interpolates the darkest greys coarsely.
    bright = before >= 8
    np.testing.assert_allclose(read_bytes(tmp_path / "a.png")[bright], from_linear(before)[bright], atol=1.5)


def test_a_profile_holds_for_deep_greys_and_for_what_is_half_transparent(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(
        tmp_path / "a.png", icc_profile=linear_profile(b"GRAY")
    )
    bright = GREY >= 8
    actual = read_bytes(tmp_path / "a.png")[..., 0]
    np.testing.assert_allclose(actual[bright], from_linear(GREY)[bright], atol=1.5)
    alpha = np.full((10, 16, 1), 128, np.uint8)
    picture = Image.fromarray(np.concatenate([COLOURS, alpha], axis=-1))
    picture.save(tmp_path / "b.png", icc_profile=linear_profile(b"RGB "))
    expected = (from_linear(COLOURS) * 128 + 255 * 127) / 255
    np.testing.assert_allclose(read_bytes(tmp_path / "b.png"), expected, atol=2)


@pytest.mark.parametrize("profile", ["srgb", "damaged", "of ink", "empty"])
def test_a_profile_that_is_srgb_or_of_no_use_changes_nothing(tmp_path, profile):
    content = {
        "srgb": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "damaged": linear_profile(b"RGB ")[:200],
        "of ink": linear_profile(b"CMYK"),
        "empty": b"?",
    }[profile]
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=content)
    np.testing.assert_array_equal(read_bytes(tmp_path / "a.png"), COLOURS)


@pytest.mark.parametrize(
    "suffix", ["jfif", "avif", "ppm", "JPEG", "Tga", "jp2", "pcx", "ico", "dds", "qoi", "mpo"]
)
def test_pillows_suffixes_are_pictures(tmp_path, suffix):
    picture = Image.fromarray(np.full((16, 16, 3), 200, np.uint8))
    picture.save(tmp_path / f"0.{suffix}", format={"mpo": "JPEG"}.get(suffix))
    files, passed_over = find_pictures(tmp_path)
    assert [file.name for file in files] == [f"0.{suffix}"] and not passed_over
    np.testing.assert_allclose(read_bytes(files[0]), 200, atol=2)


@pytest.mark.parametrize(
    "name", ["a.pdf", "a.eps", "a.h5", "a.mpg", "a.heic", "png", "a.png~", CONTACT_SHEET]
)
def test_what_is_no_picture_or_needs_another_program_is_passed_over(tmp_path, name):
    (tmp_path / name).write_bytes(b"?")
    assert find_pictures(tmp_path) == ([], [name])


def test_a_file_is_read_by_its_content_but_not_by_another_program(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).save(buffer, "PNG")
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_bytes(tmp_path / "a.jpg"), COLOURS)
    Image.fromarray(COLOURS).save(tmp_path / "b.png", "EPS")
    with pytest.raises(ConfigError, match=r"b.png': .*begins with b'%!PS-Adobe"):
        read_picture(tmp_path / "b.png")


def test_names_may_hold_any_character_and_go_by_their_numbers(tmp_path):
    names = ["01.png", "1.png", "1\u00b23.png", "2 a\n.png", "2 \u2028.png", "10.png", "9" * 200 + ".png"]
    names += ["a10.png", "a\udcff.png", "\u732b.png", "\u0663.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = [file.name for file in find_pictures(tmp_path)[0]]
    assert sorted(found) == sorted(names)
    numbered = [n for n in found if n[0] in "0129"]
    assert numbered[:2] == ["01.png", "1.png"] and numbered[-2:] == ["10.png", "9" * 200 + ".png"]


def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert find_pictures(tmp_path) == ([], ["a.png"])


def test_a_long_text_or_profile_does_not_keep_a_picture_from_being_read(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 2**21, zip=True)
    Image.fromarray(COLOURS).save(tmp_path / "a.png", pnginfo=text, icc_profile=b"\0" * 2**21)
    np.testing.assert_array_equal(read_bytes(tmp_path / "a.png"), COLOURS)


def cut_in_two(png, between):
    """Lay the pixels into two chunks with something between them."""
    start, end = png.index(b"IDAT") + 4, len(png) - 12 - 4
    first, second = png[start : start + 50], png[start + 50 : end]
    return png[: start - 8] + chunk(b"IDAT", first) + between + chunk(b"IDAT", second) + png[-12:]


def damaged(folder, case):
    file, rows = folder / "a.png", [row.tobytes() for row in COLOURS]
    if case == "huge":
        write_png(file, width=30000, height=30000, rows=rows)
    elif case == "long":
        write_png(file, width=2**18 + 1, height=1, rows=[bytes(3 * (2**18 + 1))])
    elif case == "text beyond all limits":
        text = b"k\0\0" + zlib.compress(bytes(2**26 + 1))
        write_png(file, width=16, height=10, rows=rows, extra=chunk(b"zTXt", text))
    else:
        write_png(file, width=16, height=10, rows=rows)
        whole = file.read_bytes()
        at = whole.index(b"IDAT")
        file.write_bytes(
            {
                "damaged head": whole[:33] + bytes([0, 0, 0, 0, 0, 1, 2, 3]) + whole[33:],
                "broken chunk": cut_in_two(whole, bytes([0, 0, 0, 0, 0, 1, 2, 3])),
                "wrong sum": whole[: at + 20] + bytes([whole[at + 20] ^ 255]) + whole[at + 21 :],
                "cut": whole[: len(whole) // 2],
                "text": b"a cat",
                "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "empty": b"",
            }[case]
        )
    return file


DAMAGED = {
    "huge": "Image size .900000000 pixels. exceeds limit of",
    "long": "it is 262145x1, sides may have 1 to 262144 pixels",
    "text beyond all limits": "Decompressed data too large",
    "damaged head": "of no format that Pillow reads, or damaged",
    "broken chunk": "broken PNG file",
    "wrong sum": "",
    "cut": "truncated",
    "text": "it begins with b'a cat'",
    "pointer": "it begins with b'version https://",
    "empty": "it is empty",
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_picture_is_one_line_with_its_name(tmp_path, case):
    file = damaged(tmp_path, case)
    with pytest.raises(
        ConfigError, match=rf"^images='.*a.png': expected a readable picture \(.*{DAMAGED[case]}"
    ) as e:
        read_picture(file)
    assert "\n" not in str(e.value)


def test_a_picture_that_is_gone_or_a_folder_is_named(tmp_path):
    for file in (tmp_path / "a.png", tmp_path):
        for read in (read_picture, picture_size):
            with pytest.raises(ConfigError, match=r"images='.*': expected a readable picture \((No|Is a)"):
                read(file)


def test_a_folder_of_pictures_that_is_gone_or_a_file_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for name in ("none", "file"):
        with pytest.raises(ConfigError, match=rf"^images='.*{name}': expected a readable folder \(No"):
            find_pictures(tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp", "bmp", "ico", "tga", "avif", "psd"])
def test_any_bytes_are_a_picture_or_one_line(tmp_path, suffix):
    rng, file = np.random.default_rng(0), tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(file, format="PNG" if suffix == "psd" else None)
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    for _ in range(60):
        content = whole.copy()
        places = rng.integers(0, len(content), 3)
        content[places] = rng.integers(0, 256, 3)
        file.write_bytes(content[: rng.integers(len(content) // 2, len(content) + 1)].tobytes())
        try:
            assert read_picture(file).shape == (*picture_size(file), 3)
        except ConfigError as error:
            assert f"a.{suffix}" in str(error) and "\n" not in str(error)
