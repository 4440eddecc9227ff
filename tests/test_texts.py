"""Text and JSON as any program writes them."""

import codecs
import json
import os
import subprocess
import sys

import pytest

from rats_jax.texts import decode, is_whole, parse_json, parse_whole_json, read_text, split_lines, writable


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-8"),
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_a_byte_order_mark_says_the_encoding_and_is_dropped(tmp_path, mark, encoding):
    file = tmp_path / "a.txt"
    file.write_bytes(mark + "grüner Apfel 🍏\r\nred".encode(encoding))
    assert read_text(file) == "grüner Apfel 🍏\r\nred"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\ncaf\xe9", "line 3 is not UTF-8"),
        (codecs.BOM_UTF8 + b"caf\xe9", "line 1 is not UTF-8"),
        (b"\xed\xa0\xbd", "line 1 is not UTF-8"),  # a surrogate, encoded
        (codecs.BOM_UTF16_LE + b"\x3d\xd8", "line 1 is not UTF-16-LE"),
        ("black\ncat".encode("utf-16-le"), "line 1 has a NUL"),
        (b"a\n\0", "line 2 has a NUL"),
    ],
)
def test_what_is_no_text_is_refused_by_its_line(content, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        decode(content)


def test_lines_end_at_line_ends_alone():
    assert split_lines("a\r\nb\rc\nd") == ["a", "b", "c", "d"]
    inside = "a\u2028b\u2029c\x0bd\x0ce\x85f\x1cg"
    assert split_lines(f"{inside}\n") == [inside, ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[" * 100_000, "too many brackets"),
        ("1" * 5000, "an integer of thousands of digits"),
        ('\ufeff{"a": 1}', "BOM"),  # a second mark, after that of the file
    ],
)
def test_json_that_python_cannot_take_is_refused_in_a_line(text, message):
    for parse in (parse_json, parse_whole_json):
        with pytest.raises(ValueError, match=message) as error:
            parse(text)
        assert "\n" not in str(error.value) and len(str(error.value)) < 200


@pytest.mark.parametrize("text", ['{"a": "\\ud83d"}', '{"\\uDC00": 1}', '["caf\\udce9"]'])
def test_half_a_character_is_refused_where_texts_are_to_be_whole(text):
    assert parse_json(text) == json.loads(text)
    with pytest.raises(ValueError, match="^half a character"):
        parse_whole_json(text)


def test_json_of_any_depth_is_parsed_or_refused():
    for depth in range(800, 1100):
        text = "[" * depth + '"\\u0041"' + "]" * depth
        try:
            parse_whole_json(text)
        except ValueError as error:
            assert str(error).startswith("too many brackets")


def test_json_is_parsed():
    content = {"a": ["🍏", "\\ud83d", None, 1e3], "b": {"c": 2**63}}
    for parse in (parse_json, parse_whole_json):
        assert parse(json.dumps(content)) == content == parse(json.dumps(content, ensure_ascii=False))


def test_half_a_character_is_told_from_a_whole_one():
    assert is_whole("🍏") and not is_whole("\ud83c") and not is_whole("a\udce9")


@pytest.mark.parametrize(
    ("output", "said"), [("pipe", ""), ("/dev/full", "warning: standard output cannot be")]
)
def test_what_cannot_be_printed_keeps_nothing_from_being_written(tmp_path, output, said):
    file = tmp_path / "result"
    code = (
        f"from rats_jax.texts import show\nshow('a table')\nshow('more')\nopen({str(file)!r}, 'w').write('b')"
    )
    if output == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
    elif os.path.exists(output):
        writer = os.open(output, os.O_WRONLY)
    else:
        pytest.skip("no such device here")
    pipes = {"stdout": writer, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.run([sys.executable, "-c", code], **pipes, check=False)
    os.close(writer)
    assert done.returncode == 0 and file.read_text() == "b"
    assert done.stderr.count("\n") == bool(said) and done.stderr.startswith(said)


def test_what_cannot_be_written_is_escaped():
    assert writable("a 猫 \udce9") == "a 猫 \\udce9".encode()
