"""The three rules of the house, for every folder and file: walked by ast, so that lazy imports count too."""

import ast
from pathlib import Path

import pytest

from rats_jax.__main__ import COMMANDS as NAMES

PACKAGE = Path(__file__).parents[1] / "rats_jax"
FILES = {
    ".".join(("rats_jax", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in PACKAGE.rglob("*.py")
}
COMMANDS = set(NAMES)
FOUNDATIONS = {"types", "errors", "fields", "paths", "texts", "files", "progress", "python_files"}
# From the bottom up: a folder imports what its row names, of the folders, and foundations.
FOLDERS = {
    "diffusion": set(),
    "method": {"diffusion"},
    "networks": set(),
    "data": set(),
    "weights": {"networks", "data"},
    "parallel": set(),
    "pipelines": {"diffusion", "networks", "data", "weights"},
    "rewards": {"networks", "data", "weights"},
    "config": {"parallel"},
    "workdir": {"config"},
    "report": {"data"},
    "student": {
        *{"diffusion", "networks", "data", "weights", "pipelines", "parallel", "workdir", "report"},
    },
    "verification": {
        *{"diffusion", "networks", "weights", "parallel", "pipelines", "rewards", "report"},
    },
    "evaluation": {
        *{"diffusion", "method", "networks", "weights", "rewards", "parallel", "config", "data", "report"},
        "student",
    },
    "demonstration": {"data", "workdir", "report", "student", "evaluation"},
    "training": {
        *{"diffusion", "method", "networks", "weights", "pipelines", "rewards", "parallel", "config", "data"},
        *{"workdir", "report", "evaluation"},
    },
    "ablation": {
        *("parallel", "config", "data", "workdir", "report", "student", "evaluation", "training"),
        *("pipelines", "rewards"),
    },
    "aot": {"parallel", "training"},
    "pretraining": {
        *{"diffusion", "networks", "weights", "pipelines", "rewards", "data", "report"},
    },
}
# Foundations and mathematics stand by themselves.
FOUNDATIONS_OF = {
    "types": set(),
    "errors": set(),
    "fields": set(),
    "paths": {"errors"},
    "texts": {"errors"},
    "files": {"errors", "texts"},
    "progress": {"errors"},
    "python_files": {"errors"},
    "diffusion": {"types", "fields"},
    "method": {"types"},
    "networks": {"types", "fields"},
}
MATHEMATICS = {
    "diffusion": {"jax", "chex", "numpy"},
    "method": {"jax", "chex", "numpy", "optax"},
    "networks": {"jax", "chex", "numpy", "flax"},
}
STANDARD = {"__future__", "collections", "dataclasses", "functools", "itertools", "math", "re", "typing"}


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
    assert len(FILES) > 100
    assert "rats_jax.errors.ConfigError" in IMPORTS["rats_jax.data.prompts"]
    assert any(name.startswith("rats_jax.training") for name in IMPORTS["rats_jax.main"])


def test_the_root_holds_commands_and_foundations_alone():
    root = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert root == COMMANDS | FOUNDATIONS | {"__main__"}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(FOLDERS)
    for path in PACKAGE.glob("*/*/*.py"):
        pytest.fail(f"{path}: a folder in a folder")


def test_no_row_of_the_table_names_a_folder_above_it():
    below = set()
    for folder, allowed in FOLDERS.items():
        assert allowed <= below, folder
        below.add(folder)


@pytest.mark.parametrize("module", sorted(FILES))
def test_folders_import_downwards_only(module):
    part = part_of(module)
    inside = {part_of(name) for name in IMPORTS[module] if name.startswith("rats_jax.")} - {part}
    if part in COMMANDS:
        assert not inside & COMMANDS
    elif part != "__init__":
        assert inside <= FOLDERS.get(part, set()) | FOUNDATIONS_OF.get(part, FOUNDATIONS)


def test_the_package_itself_is_imported_by_what_stands_above_it_alone():
    """`import rats_jax` reaches whatever its root gives, as `rats_jax.load` of the student."""
    bare = {
        module
        for module, names in IMPORTS.items()
        if any(name == "rats_jax" or (name.startswith("rats_jax.") and is_of_root(name)) for name in names)
    }
    above = {f"rats_jax.{name}" for name in COMMANDS | {"__main__"}} | {"rats_jax.verification.report"}
    assert bare <= above and "rats_jax.generate" in bare


def is_of_root(name: str) -> bool:
    """Whether a name is one of rats_jax/__init__.py's own, and no module or folder."""
    return part_of(name) not in COMMANDS | FOUNDATIONS | set(FOLDERS) | {"__main__"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_is_thin(command):
    assert len(FILES[f"rats_jax.{command}"].read_text().splitlines()) <= 130


@pytest.mark.parametrize("module", sorted(FILES))
def test_external_packages_stay_in_their_place(module):
    outside = {name for name in IMPORTS[module] if not name.startswith("rats_jax")}
    packages = {name.split(".")[0] for name in outside}
    if part_of(module) == "verification":  # whose other side is PyTorch's
        packages -= {"torch", "diffusers", "transformers"}
    assert not packages & {"torch", "tensorflow", "diffusers"}
    if part_of(module) != "weights":
        assert "transformers" not in packages
    if part_of(module) == "config":
        assert not packages & {"jax", "flax", "optax", "orbax"}
    if part_of(module) in MATHEMATICS:
        assert packages - STANDARD <= MATHEMATICS[part_of(module)]


def test_pytorch_is_imported_where_it_is_used_and_nowhere_else():
    found = set()
    for module, path in FILES.items():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and {name.name for name in node.names} & {"torch", "diffusers"}:
                assert node not in tree.body, module
                found.add(module)
    assert found and all(part_of(module) == "verification" for module in found)


def test_interceptors_are_for_lora_alone():
    found = {module for module, path in FILES.items() if "intercept_methods" in path.read_text()}
    assert found == {"rats_jax.networks.lora"}


def test_gradio_is_imported_by_its_page_alone():
    found = {module for module, path in FILES.items() if 'import_module("gradio")' in path.read_text()}
    found |= {module for module, names in IMPORTS.items() if any(n.startswith("gradio") for n in names)}
    assert found == {"rats_jax.demonstration.page"}
