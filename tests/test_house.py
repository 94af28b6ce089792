"""What a reader may rely on: every module has its test file, every public name says what it is."""

import ast
from pathlib import Path

import pytest

import attunement

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "attunement"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if not path.name.startswith("__"))
PACKAGES = sorted(SOURCE.rglob("__init__.py"))


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_its_test_file(path):
    relative = path.relative_to(SOURCE)
    assert (ROOT / "tests" / relative.parent / f"test_{relative.name}").is_file()


@pytest.mark.parametrize("path", [*MODULES, *PACKAGES], ids=name_of)
def test_a_module_says_what_it_is_for(path):
    opening = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert opening
    assert len(opening) > 30


@pytest.mark.parametrize("name", attunement.__all__)
def test_a_public_name_says_what_it_is(name):
    """A docstring in its source: a dataclass makes one up, and a table inherits that of dict."""
    room = attunement._ROOMS[name].replace(".", "/")
    path = SOURCE / f"{room}.py"
    if path.is_file():
        assert documented(path, name)
    else:  # a package's names are documented in its modules
        assert any(documented(module, name) for module in (SOURCE / room).glob("*.py"))


def documented(path: Path, name: str) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return bool(ast.get_docstring(node))
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
    return False


def test_the_table_of_contents_is_the_same_for_people_and_type_checkers():
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (alias.name, node.module)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    rooms = {(name, f"attunement.{room}") for name, room in attunement._ROOMS.items()}
    assert seen == rooms


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_like_it"):
        attunement.nothing_like_it  # noqa: B018
