"""Prompts in the formats that people have them in."""

import json
import time

import pytest

from rats_jax.data.prompts import read_prompts, read_records
from rats_jax.data.rows import has_fields
from rats_jax.errors import ConfigError

BOTH = ["black cat", "red apple"]


def write(folder, name, text):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "black cat\nred apple\n"),
        ("p.txt", "\ufeffblack cat\r\n\r\nred apple\r\n"),
        ("p.txt", "black cat\rred apple\r"),
        ("p.txt", "\ufeffblack cat\n\ufeff\n\ufeffred apple\n"),  # two files that were joined
        ("p.txt", "\ufeffblack cat\nred apple\n".encode("utf-16-le")),
        ("p.TXT", "black cat\nred apple"),
        ("p", "black cat\nred apple"),
        ("p.prompts", "black cat\nred apple"),
        ("p-1.5", "black cat\nred apple"),
        ("p.jsonl", '\ufeff{"prompt": "black cat"}\r\n{"prompt": "red apple"}\r\n'),
        ("p.JSONL", '{"Prompt": "black cat"}\n\n{"CAPTION": "red apple", "id": null}\n'),
        ("p.ndjson", '{"prompt": "black cat"}\n{"prompt": null, "text": "red apple"}\n'),
        ("p.Ndjson", '"black cat"\n"red apple"\n'),
        ("p.json", '[\n "black cat",\n "red apple"\n]\n'),
        ("p.json", '\ufeff[{"prompt": "black cat"}, {"text": "red apple", "prompt": null}]'),
        ("p.JSON", '["black cat", {"caption": "red apple"}]'),
        ("p.csv", "id,caption\n0,black cat\n1,red apple\n"),
        ("p.csv", '\ufeffcaption,prompt\r\nx,"black cat"\r\n\r\ny,red apple\r\n'),
        ("p.csv", "prompt\rblack cat\rred apple\r"),
        ("p.csv", "id;text\n0;black cat\n1;red apple\n"),
        ("p.csv", "prompt,\nblack cat,\nred apple\n"),
        ("p.CSV", ",Text\n0,black cat\n1, red apple\n,\n"),
        ("p.tsv", "Prompt\tCategory\tNote\nblack cat\tAnimals\t\nred apple\tFood, red\t\n"),
    ],
)
def test_every_format_gives_its_prompts(tmp_path, name, text):
    assert read_prompts(write(tmp_path, name, text)) == BOTH


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\x1c", "\x1e"])
def test_separators_inside_a_prompt_do_not_split_it(tmp_path, separator):
    prompt = f"black{separator}cat"
    for name, text in {
        "p.txt": prompt,
        "p.jsonl": json.dumps({"prompt": prompt}, ensure_ascii=separator < " "),
        "p.csv": f"prompt\n{prompt}",
    }.items():
        assert read_prompts(write(tmp_path, name, text)) == [prompt]


def test_a_cell_in_quotes_may_hold_separators_quotes_and_lines(tmp_path):
    file = write(tmp_path, "p.csv", 'id,prompt\n0,"a ""black"" cat,\r\nasleep"\n1,red apple\n')
    assert [place.rpartition(":")[2] for place, _ in read_records(file)] == ["2", "4"]
    assert read_prompts(file) == ['a "black" cat,\r\nasleep', "red apple"]
    file = write(tmp_path, "p.tsv", 'prompt\tid\na sign that says "OPEN", red\t1\n')
    assert read_prompts(file) == ['a sign that says "OPEN", red']


def test_rows_keep_their_other_fields(tmp_path):
    file = write(tmp_path, "p.csv", "file_name,Caption\na.png, a cat \n")
    assert read_records(file) == [
        (f"{file}:2", {"file_name": "a.png", "Caption": " a cat ", "prompt": "a cat"})
    ]
    assert has_fields(file) and has_fields("P.NDJSON") and not has_fields("p.txt") and not has_fields("p")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "p.csv",
            "id,name\n0,cat\n",
            "p.csv:2'.* `prompt`, `text` or `caption`, found the fields 'id', 'name'",
        ),
        ("p.csv", "black cat\nred apple\n", "p.csv:2'.*found the fields 'black cat'"),
        ("p.csv", "prompt\n", "at least one prompt, the file is empty"),
        ("p.csv", "", "at least one prompt, the file is empty"),
        ("p.csv", "id,prompt\n0,a\n1,black cat, asleep\n", "p.csv:3': expected 2 cells .* found 3 .*','"),
        ("p.csv", "id,prompt\n0,black cat\nasleep\n", "p.csv:3': expected 2 cells .* found 1"),
        ("p.csv", 'id,prompt\n0,"black cat\n1,red apple\n', "p.csv:2': expected a row of cells"),
        ("p.csv", "id,prompt\n0, \n", "p.csv:2': expected a row with a text in .*, found ' '"),
        (
            "p.csv",
            "prompt,prompt\na,b\n",
            "p.csv:1': expected columns of different names, found 'prompt' twice",
        ),
        ("p.csv", f"prompt\n{'a' * 140_000}\n", "p.csv:2': expected a row of cells .*limit"),
        ("p.csv", "prompt\ncaf\xe9\n".encode("latin-1"), "line 2 is not UTF-8"),
        ("p.tsv", "id\tname\n0\tcat\n", "found the fields 'id', 'name'"),
        ("p.json", "", "at least one prompt"),
        ("p.json", "[]", "at least one prompt"),
        ("p.json", '{"prompts": ["a"]}', "a JSON array of texts or objects, found the fields 'prompts'"),
        ("p.json", '"black cat"', "a JSON array of texts or objects, found 'black cat'"),
        ("p.json", '["a", null]', "p.json, item 2'.*found None"),
        ("p.json", '["a", ["b"]]', r"p.json, item 2'.*found \['b'\]"),
        ("p.json", '["a", ""]', "p.json, item 2'.*found ''"),
        ("p.json", '["a"', "expected a JSON array .*line 1"),
        (
            "p.json",
            '{"prompt": "a"}\n{"prompt": "b"}',
            "Extra data: line 2.*one value per line ends in .jsonl",
        ),
        ("p.json", "[" * 100_000, "too many brackets"),
        ("p.json", '["\\ud83d"]', "half a character"),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "cat \\ud83d"}', "p.jsonl:2'.*half a character"),
        ("p.jsonl", '{"prompt": "a", "other": "\\ud83d"}', "p.jsonl:1'.*half a character"),
        ("p.jsonl", '{"prompt": "a\\u0000b"}', "p.jsonl:1': expected a text of whole characters"),
        ("p.jsonl", '{"prompt": null}', "p.jsonl:1'.*found the fields 'prompt'"),
        ("p.jsonl", '{"prompt": null, "text": null, "id": 1}', "p.jsonl:1': expected a JSON object"),
        ("p.jsonl", '{"prompt": "a", "Prompt": "b"}', "expected one `prompt`, found prompt, Prompt"),
        ("p.jsonl", '{"prompt": ["a"]}', r"p.jsonl:1'.*found \['a'\]"),
        ("p.jsonl", '{"prompt": ' + "[" * 900 + "]" * 900 + "}", "p.jsonl:1'"),
        ("p.jsonl", '{"prompt": "a"}\n' + "[" * 100_000, "p.jsonl:2'.*too many brackets"),
        ("p.jsonl", '{"prompt": "a", "seed": ' + "1" * 5000 + "}", "p.jsonl:1'.*thousands of digits"),
        ("p.txt", "\ufeff\n", "at least one prompt"),
        ("p.txt", "black cat\na\0b", "line 2 has a NUL"),
        ("p.txt", "black cat".encode("utf-16-le"), "line 1 has a NUL"),
        (
            "p.parquet",
            "PAR1",
            "p.parquet': expected text with one prompt per line, or .*; .parquet is not read",
        ),
        ("p.XLSX", "PK", "; .xlsx is not read"),
        ("p.txt.gz", "", "; .gz is not read"),
        ("p.yaml", "- black cat", "; .yaml is not read"),
    ],
)
def test_what_is_no_prompt_is_refused_in_a_line_that_names_its_place(tmp_path, name, text, message):
    file = write(tmp_path, name, text)
    with pytest.raises(ConfigError, match=message) as error:
        read_prompts(file)
    line = str(error.value)
    assert line.startswith("prompts='") and name in line and "\n" not in line and len(line) < 600
    assert line.encode()


def test_a_folder_is_no_file_of_prompts(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a readable text file \(Is a directory"):
        read_prompts(tmp_path)


def test_reading_is_linear_in_the_length_of_a_text(tmp_path):
    start = time.perf_counter()
    text = "black cat " * 300_000
    assert read_prompts(write(tmp_path, "p.txt", text)) == [text.strip()]
    assert read_prompts(write(tmp_path, "p.jsonl", json.dumps({"prompt": text}))) == [text.strip()]
    assert read_prompts(write(tmp_path, "p.json", json.dumps(BOTH * 30_000))) == BOTH * 30_000
    assert read_prompts(write(tmp_path, "p.csv", "prompt\n" + "cat\n" * 60_000)) == ["cat"] * 60_000
    assert time.perf_counter() - start < 10
