"""What a machine can say for certain about the house: its floors, its habits, its packages."""

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "windvane"
FILES = sorted(SOURCE.rglob("*.py"))

LINES_MAX = 64
"""A function fits a screen; its docstring is not counted."""

BROAD_EXCEPTS = {
    "gateway/data_plane/app.py": 1,  # the surface's edge
    "gateway/server.py": 1,  # the server's edge: nothing may reach uvicorn
}
"""The only places that may catch everything, and how often."""

LAZY_IMPORTS = {
    "__init__.py",  # the public names, each loaded at first use
    "cli/main.py",  # commands, each loaded when called
    "cli/models.py",  # rich, for people only
    "gateway/app.py",  # the control plane: FastAPI is loaded when somebody asks for it
    "simulator",  # a product of its own
    "stores/redis/__init__.py",  # an extra: loaded when an address is configured
}

PURE = ("core", "wire", "providers", "ports")
ALLOWED_IN_PURE = {"msgspec", "windvane"}


def place(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "a file opens with a docstring"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_function_fits_a_screen(path: Path) -> None:
    for function in functions(path):
        first = function.body[0]
        has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        start = first.end_lineno if has_docstring else function.lineno
        assert function.end_lineno and start
        assert function.end_lineno - start <= LINES_MAX, f"{place(path)}: {function.name}"


def test_no_file_is_named_for_nothing() -> None:
    vague = re.compile(r"util|helper|manager|misc|common")
    assert [place(path) for path in FILES if vague.search(path.stem)] == []


def test_everything_is_caught_at_two_places_only() -> None:
    found: dict[str, int] = {}
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None
                or (isinstance(node.type, ast.Name) and node.type.id == "Exception")
            ):
                found[place(path)] = found.get(place(path), 0) + 1
    assert found == BROAD_EXCEPTS


def test_imports_stand_at_the_top() -> None:
    for path in FILES:
        allowed = place(path) in LAZY_IMPORTS or place(path).split("/")[0] in LAZY_IMPORTS
        for function in functions(path):
            inside = [name for node in ast.walk(function) for name in imported(node)]
            assert allowed or not inside, f"{place(path)}: {function.name} imports {inside}"


def test_pure_floors_import_the_standard_library_and_msgspec_alone() -> None:
    known = sys.stdlib_module_names | ALLOWED_IN_PURE
    for path in FILES:
        if place(path).split("/")[0] not in PURE:
            continue
        for node in ast.walk(tree(path)):
            foreign = {name.split(".")[0] for name in imported(node)} - known
            assert not foreign, f"{place(path)} imports {foreign}"


def test_importing_the_library_loads_no_framework() -> None:
    """A program that uses the client alone must not pay for the gateway."""
    code = (
        "import sys, windvane; from windvane import MistralClient;"
        "print([m for m in ('fastapi', 'pydantic', 'uvicorn', 'starlette', 'rich', 'httpx', 'redis')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_gateway_that_only_relays_does_not_load_the_control_plane() -> None:
    code = (
        "import sys, windvane.cli.serving; print('fastapi' in sys.modules, 'rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_vendored_files_are_what_their_manifest_says() -> None:
    folder = SOURCE / "gateway" / "control_plane" / "assets"
    manifest = tomllib.loads((folder / "MANIFEST.toml").read_text())
    listed = {file["name"]: file["sha256"] for file in manifest["file"]}
    shipped = {path.name: path for path in folder.glob("*.gz")}
    assert listed.keys() == shipped.keys()
    for name, digest in listed.items():
        assert hashlib.sha256(shipped[name].read_bytes()).hexdigest() == digest


def test_the_wheel_holds_the_package_and_nothing_that_runs_by_itself(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith(".pth")]
    assert all(name.startswith(("windvane/", "windvane-")) for name in names)
    data = {path.relative_to(SOURCE.parent).as_posix() for path in SOURCE.rglob("*.sql")}
    data |= {path.relative_to(SOURCE.parent).as_posix() for path in SOURCE.rglob("*.json")}
    assert data <= set(names), "data files are in the wheel"
    assert "windvane/py.typed" in names


def test_pins_have_hashes_and_name_no_address() -> None:
    for pins in (ROOT / "requirements").glob("*.txt"):
        text = pins.read_text()
        assert "://" not in text
        for requirement in re.split(r"\n(?=\S)", text.strip()):
            assert "--hash=sha256:" in requirement, requirement.splitlines()[0]
