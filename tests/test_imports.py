"""The import direction of docs/design.md, walked by ast so that lazy imports count too."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rats_jax"
FILES = {
    ".".join(("rats_jax", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in PACKAGE.rglob("*.py")
}

# What each part of the package may import of the others. The commands at its top level (train, evaluate, ...)
# may import all parts, but not main.
MAY_IMPORT = {
    "errors": set(),
    "types": set(),
    "paths": set(),
    "diffusion": {"types"},
    "objective": {"types", "diffusion"},
    "rewards": {"types", "errors", "models"},
    "models": {"types", "errors", "paths", "diffusion"},
    "runtime": {"types", "errors", "paths"},
    "update": {"types", "diffusion", "objective"},
}
MATHEMATICS = {"diffusion": {"jax", "chex", "numpy"}, "objective": {"jax", "chex", "numpy"}}
STANDARD = {"__future__", "collections", "dataclasses", "functools", "math", "typing"}


def imports_of(path: Path, module: str) -> set[str]:
    """List the full names of all modules that a file imports, relative imports resolved."""
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{source}.{name.name}" for name in node.names}
    return found


def part_of(module: str) -> str:
    """The folder or file directly under rats_jax."""
    return module.split(".")[1]


IMPORTS = {module: imports_of(path, module) for module, path in FILES.items()}


def test_the_walk_sees_something():
    assert len(FILES) > 10
    assert "rats_jax.errors.ConfigError" in IMPORTS["rats_jax.runtime.prompts"]
    assert any(name.startswith("rats_jax.train") for name in IMPORTS["rats_jax.main"])


@pytest.mark.parametrize("module", sorted(FILES))
def test_parts_import_only_what_stands_before_them(module):
    inside = {part_of(name) for name in IMPORTS[module] if name.startswith("rats_jax.")}
    if part_of(module) in MAY_IMPORT:
        assert inside <= MAY_IMPORT[part_of(module)] | {part_of(module)}
    assert "main" not in inside or module == "rats_jax.main"


@pytest.mark.parametrize("module", sorted(FILES))
def test_external_packages_stay_in_their_place(module):
    outside = {name.split(".")[0] for name in IMPORTS[module] if not name.startswith("rats_jax")}
    assert not outside & {"torch", "tensorflow"}
    if part_of(module) != "models":
        assert not outside & {"diffusers", "transformers"}
    if part_of(module) in MATHEMATICS:
        assert outside - STANDARD <= MATHEMATICS[part_of(module)]
