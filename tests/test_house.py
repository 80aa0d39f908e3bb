"""The house itself: what is installed, who may import whom, and whether the documents are true."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ["attribution", "metrics", "visualization", "cli"]  # each may import those before it
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())


def modules():
    return [p for room in ["package", *ROOMS] for p in (ROOT / room).rglob("*.py")]


def test_every_folder_with_code_is_a_package_of_the_project():
    mapped = {ROOT / folder for folder in CONFIG["tool"]["setuptools"]["package-dir"].values()}
    assert {p.parent for p in modules()} == mapped
    assert set(CONFIG["tool"]["setuptools"]["packages"]) == set(CONFIG["tool"]["setuptools"]["package-dir"])


def test_a_wheel_holds_every_module_and_all_data(tmp_path):
    """Built from a copy: a wheel built in the tree keeps what was deleted."""
    copy = tmp_path / "copy"
    keep = ["package", *ROOMS, "pyproject.toml", "README.md", "LICENSE"]
    for name in keep:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(source, copy / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, copy],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for path in modules():
        relative = path.relative_to(ROOT)
        inside = Path("attriscope", *relative.parts[1:] if relative.parts[0] == "package" else relative.parts)
        assert inside.as_posix() in held, f"{relative} is not in the wheel"
    assert "attriscope/py.typed" in held
    for data in (ROOT / "cli" / "data").iterdir():
        assert f"attriscope/cli/data/{data.name}" in held


def test_imports_point_one_way():
    for path in modules():
        relative = path.relative_to(ROOT)
        room = relative.parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "attriscope" else [node.module]
            for name in names:
                other = name.removeprefix("attriscope.").split(".")[0]
                assert name.split(".")[0] not in ROOMS, f"{relative} imports {name}: say attriscope.{name}"
                if name.startswith("attriscope.") and room in ROOMS and other in ROOMS:
                    assert ROOMS.index(other) < ROOMS.index(room), f"{relative} imports {name}"


def test_no_file_is_a_module_twice():
    code = (
        "import attriscope.cli, attriscope.visualization, attriscope.metrics, attriscope.attribution, sys, collections;"
        "files = collections.Counter(m.__file__ for n, m in sys.modules.items() if n.startswith('attriscope') and m.__file__);"
        "assert files and max(files.values()) == 1, files"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_is_cheap():
    """No torch until a room is entered."""
    code = "import attriscope, sys; assert 'torch' not in sys.modules; attriscope.attribution; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_a_room_leaves_plots_and_peers_alone():
    code = "import attriscope.metrics, sys; assert not {'captum', 'matplotlib.pyplot', 'skimage'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_readme_s_tables_are_the_registry_s():
    subprocess.run([sys.executable, "-m", "benchmarks.readme", "--check"], check=True, cwd=ROOT)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_documents_name_files_that_exist(document):
    import re

    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), f"{document} links to {target}"


def test_ci_calls_the_readme_s_test_command():
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
