"""What the site has beside this folder: README and its like, the fields of a config, linked sources."""

from __future__ import annotations

import ast
import posixpath
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES: Mapping[str, str] = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""Pages that are files of the root, by their place in the site."""

_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_LANGUAGES = {".py": "python", ".sh": "bash", ".sbatch": "bash", ".yaml": "yaml", ".txt": "text", "": "text"}


def on_files(files: Files, config: Any) -> Files:
    """Add pages of the root, the reference of fields, and a page for every file that a page links to."""
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()}
    texts |= {page: (ROOT / file).read_text(encoding="utf-8") for page, file in PAGES.items()}
    texts["reference/config.md"] = format_fields(ROOT / "configs" / "default.py")
    for page in (*PAGES, "reference/config.md"):
        files.append(File.generated(config, page, content=texts[page]))
    for source in sorted({target for page, text in texts.items() for target in _sources(page, text)}):
        files.append(File.generated(config, _page_of(source), content=_show(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to files of the checkout to their pages."""
    here = page.file.src_uri

    def follow(match: re.Match[str]) -> str:
        start, target, anchor, end = match[1], match[2], match[3] or "", match[4]
        found = _in_checkout(here, target)
        if found is None:
            return match[0]
        place = next((p for p, file in PAGES.items() if file == found), None)
        if place is None:
            inside = found.startswith("docs/")
            place = found.removeprefix("docs/") if inside else _page_of(found)
        return f"{start}{posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor}{end}"

    return _LINK.sub(follow, markdown)


def _in_checkout(page: str, target: str) -> str | None:
    """Find what a link of a page names in the checkout: a path from its root, or None."""
    if "://" in target or target.startswith("mailto:"):
        return None
    folder = posixpath.dirname(PAGES.get(page, f"docs/{page}"))
    path = posixpath.normpath(posixpath.join(folder, target))
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def _sources(page: str, text: str) -> Iterator[str]:
    for match in _LINK.finditer(text):
        found = _in_checkout(page, match[2])
        if found is not None and not found.startswith("docs/") and found not in PAGES.values():
            yield found


def _page_of(source: str) -> str:
    return f"source/{source}.md"


def _show(path: Path) -> str:
    """Show a file as code, a folder as a list of its files."""
    title = f"# {path.relative_to(ROOT)}\n\n"
    if path.is_dir():
        names = sorted(
            child.name + "/" * child.is_dir() for child in path.iterdir() if child.name[0] not in "._"
        )
        return title + "".join(f"- `{name}`\n" for name in names)
    language = _LANGUAGES.get(path.suffix, "text")
    return f"{title}````{language}\n{path.read_text(encoding='utf-8')}````\n"


def format_fields(file: Path) -> str:
    """Make the reference of a config from the comments above its fields.

    Args:
        file: whose `get_config` assigns every field as `config.NAME = VALUE`, with a comment above it.

    Returns:
        Markdown: a table of field, default and meaning for each group of fields.
    """
    module = ast.parse(file.read_text(encoding="utf-8"))
    fields = list(_read_fields(file, module))
    parts = [f"# Fields of a config\n\n{ast.get_docstring(module)}\n\nAny of them: `--config.FIELD=VALUE`."]
    groups = {
        name: meaning for name, _, meaning in fields if any(f.startswith(f"{name}.") for f, *_ in fields)
    }
    for group, about in ({"": ""} | groups).items():
        rows = [row for row in fields if row[0].rpartition(".")[0] == group and row[0] not in groups]
        lines = [f"| `{name}` | `{value}` | {meaning} |" for name, value, meaning in rows]
        title = f"## {group}\n\n{about}\n\n" if group else ""
        parts.append(title + "\n".join(["| field | default | meaning |", "|---|---|---|", *lines]))
    return "\n\n".join(parts) + "\n"


def _read_fields(file: Path, module: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Give name, default and meaning of each field; those that stand together share a comment."""
    with file.open("rb") as stream:
        tokens = [token for token in tokenize.tokenize(stream.readline) if token.type == tokenize.COMMENT]
    comments = {token.start[0]: token.string.removeprefix("#").strip() for token in tokens}
    function = next(node for node in module.body if isinstance(node, ast.FunctionDef))
    meaning, last = "", 0
    for node in function.body:
        name = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
        if not name.startswith("config."):
            continue
        first = node.lineno
        while first - 1 in comments:
            first -= 1
        if first < node.lineno or first != last + 1:
            meaning = " ".join(comments[line] for line in range(first, node.lineno))
        last = node.end_lineno or node.lineno
        value = ast.unparse(node.value).replace("ConfigDict()", "{}")
        yield (
            name.removeprefix("config."),
            value.replace("|", "\\|"),
            re.sub(r"[][*_<|]", r"\\\g<0>", meaning),
        )
