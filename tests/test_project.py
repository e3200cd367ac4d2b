"""Guards of the project itself: what a reviewer should not have to look for."""

import ast
import re
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cutaway.core.bibliography import paper, papers
from cutaway.core.catalogue import Method, catalogue
from cutaway.core.errors import UnknownName

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "cutaway"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted(SOURCE.rglob("*.py"))
METHODS = list(catalogue().values())


def name_of(node: ast.expr) -> str:
    """The dotted name of an expression: `torch.load`; empty where it has none."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{name_of(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file, with the dotted name of what is called and where."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield f"{path.relative_to(ROOT)}:{node.lineno} {name_of(node.func)}", node


def given(node: ast.Call, keyword: str) -> object:
    """The constant passed for a keyword, or None."""
    return next((k.value.value for k in node.keywords if k.arg == keyword and isinstance(k.value, ast.Constant)), None)


# -- code ------------------------------------------------------------------------------------------------------------


def test_imports_point_downwards(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0


RUNS_CODE = re.compile(
    r" (eval|exec|os\.system|os\.popen|yaml\.(unsafe_|full_)?load"
    r"|(c?pickle|dill|marshal|shelve|joblib|cloudpickle)\.(loads?|open|Unpickler))$"
)


# A job on its way to a process that this one has started, and an error on its way back: never from a file or a request.
PARCELS = ("engine/parcel.py", "engine/local.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_that_is_read_can_run_code(path: Path) -> None:
    found = [where for where, _ in calls(path) if RUNS_CODE.search(where)]
    if path.relative_to(SOURCE).as_posix() in PARCELS:
        found = [where for where in found if not where.endswith(" cloudpickle.loads")]
    for where, node in calls(path):
        unsafe = {"allow_pickle": True, "shell": True, "weights_only": False, "trust_remote_code": True}
        found += [f"{where}({keyword}={value})" for keyword, value in unsafe.items() if given(node, keyword) is value]
        if where.endswith(" torch.load") and given(node, "weights_only") is not True:
            found.append(f"{where} without weights_only=True")
    assert not found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_the_core_puts_hooks_and_modes_on_a_network(path: Path) -> None:
    # A hook on a tensor of the running forward goes with the tensor; one on a module stays. Test nets have their own.
    if path.is_relative_to(SOURCE / "core") or path.is_relative_to(SOURCE / "testing"):
        return
    hooks = re.compile(r"register_\w+_hook$|TorchFunctionMode|TorchDispatchMode")
    assert not [where for where, _ in calls(path) if hooks.search(where)]


SUPPRESSION = re.compile(
    r"#\s*(?:noqa|type:\s*ignore|pragma:\s*no cover)(?P<code>:\s*[A-Z0-9, ]+\b|\[[\w, -]+\])?(?P<reason>.*)"
)


def test_every_suppression_says_why() -> None:
    bare = []
    for path in [
        *MODULES,
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "docs").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            match = SUPPRESSION.search(line)
            if match and 'r"' not in line and len(match["reason"].split()) < 3:
                bare.append(f"{path.relative_to(ROOT)}:{number} {line.strip()}")
    assert not bare


# -- methods ---------------------------------------------------------------------------------------------------------


def test_the_catalogue_has_the_names_that_others_call() -> None:
    promised = (
        "gradient input_x_gradient smoothgrad integrated_gradients guided_backprop deconvnet grad_cam occlusion rise "
        "completeness insertion deletion parameter_randomization stability"
    ).split()
    assert set(promised) <= set(catalogue())


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_method_is_documented(method: Method) -> None:
    doc = method.function.__doc__ or ""
    assert method.summary.endswith("."), "the first line is a sentence"
    assert len(method.summary) <= 120
    assert "Returns:" in doc
    assert "Source:" in doc, "say where it comes from and what differs"
    assert not [option.name for option in method.options if not option.help], "each option is described under Args"


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_method_names_its_paper(method: Method) -> None:
    assert method.paper in papers()


def test_every_paper_can_be_cited() -> None:
    for key, entry in papers().items():
        assert re.fullmatch(r"[a-z]+\d{4}[a-z]*", key), key
        assert str(entry.year) in key
        assert entry.authors, key
        assert entry.title, key
        assert entry.url.startswith("https://")
        assert not set("{}\\") & set(entry.title + "".join(entry.authors)), "TeX in the printed form"
        assert set(entry.as_json()) == {"key", "authors", "title", "year", "url"}
    assert papers()["petsiuk2018"].short == "Petsiuk et al. 2018"
    assert papers()["tan2019"].citation.startswith("Mingxing Tan, Quoc V. Le. EfficientNet: Rethinking")
    assert papers()["tan2019"].short == "Tan and Le 2019"


def test_an_unknown_paper_suggests_its_neighbours() -> None:
    with pytest.raises(UnknownName, match="nearest: simonyan2014"):
        paper("simonyan2015")


def test_every_claimed_law_is_explained() -> None:
    explained = set(
        re.findall(r"^`(\w+)`$", (ROOT / "docs/explanation/laws.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {law for method in METHODS for law in method.laws} <= explained


def test_every_hand_written_page_belongs_to_a_method() -> None:
    assert {p.stem for p in (ROOT / "docs" / "methods").glob("*.md")} <= set(catalogue())


# -- command line ----------------------------------------------------------------------------------------------------


def commands() -> dict[str, click.Command]:
    """All commands by name."""
    from cutaway.cli import cli

    context = click.Context(cli, info_name="cutaway")
    return {name: cli.get_command(context, name) for name in cli.list_commands(context)}


def test_every_command_and_option_has_a_help_text() -> None:
    assert {"explain", "run", "methods", "models", "data", "layers", "report", "train"} <= set(commands())
    for name, command in commands().items():
        assert command.get_short_help_str(), name
        assert not [p.name for p in command.params if isinstance(p, click.Option) and not p.help], name


# -- package ---------------------------------------------------------------------------------------------------------


def requirements() -> list[str]:
    """Names of everything that the project asks for."""
    project = PYPROJECT["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    wanted = [*project["dependencies"], *extras, *PYPROJECT["build-system"]["requires"]]
    return [re.split(r"[<>=!;\[ ]", text)[0].lower() for text in wanted]


def test_everything_that_is_installed_is_pinned() -> None:
    pins = [
        line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
    ]
    assert not [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)]
    assert set(requirements()) <= {pin.split("==")[0] for pin in pins}


def test_make_targets_are_short_and_explained() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in "demo test check docs bench clean".split():
        match = re.search(rf"^# (.+)\n{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)
        assert match, f"{target} has a comment above it"
        assert match[2].count("\n") <= 4, target


def test_the_wheel_has_everything_that_the_program_reads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("cutaway-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    here = {
        f"cutaway/{p.relative_to(SOURCE)}" for p in SOURCE.rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    assert here <= names
    kinds = {Path(name).suffix for name in names if name.startswith("cutaway/")}
    assert {".safetensors", ".bib", ".txt"} <= kinds
    assert "cutaway/py.typed" in names
    assert {"METADATA", "entry_points.txt", "LICENSE"} <= {Path(name).name for name in names}


def test_the_version_stands_in_one_place() -> None:
    import cutaway

    assert "version" in PYPROJECT["project"]["dynamic"]
    assert re.search(
        rf"^## {re.escape(cutaway.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )


def test_tests_reach_no_network() -> None:
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
