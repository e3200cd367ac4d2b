"""The code in README, CONTRIBUTING and the documentation runs, and does what the text beside it says."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "docs/tutorial/first-explanation.md",
    *sorted(f"docs/how-to/{p.name}" for p in (ROOT / "docs" / "how-to").glob("*.md")),
]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    if page == "README.md":
        assert {"why.png", "why.html", "why.json"} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.slow
def test_a_method_is_three_files(tmp_path: Path) -> None:
    """As CONTRIBUTING says: function, paper, test. Then the method is in the catalogue, with its options."""
    function, test = blocks("CONTRIBUTING.md", "python")
    (entry,) = blocks("CONTRIBUTING.md", "bibtex")
    package = tmp_path / "cutaway"
    shutil.copytree(ROOT / "src" / "cutaway", package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    (package / "attribution" / "sign_agreement.py").write_text(function, encoding="utf-8")
    with (package / "core" / "references.bib").open("a", encoding="utf-8") as bibliography:
        bibliography.write(entry)
    (tmp_path / "test_sign_agreement.py").write_text(test, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def python(*words: str) -> str:
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    (found,) = (m for m in json.loads(python("cutaway", "methods", "--json")) if m["name"] == "sign_agreement")
    assert "Shattered Gradients" in found["citation"]
    assert [option["name"] for option in found["options"]] == ["samples", "noise", "seed"]
    assert "1 passed" in python("pytest", "-q", "-p", "no:cacheprovider", "test_sign_agreement.py")
