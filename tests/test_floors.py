"""The floors of the house: imports go down, never up, never sideways between rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vlprobe

HOUSE = Path(vlprobe.__file__).parent
FLOORS = [
    ["__main__"],
    ["cli", "__init__"],
    ["commands"],
    ["calibration", "sharing"],
    ["study"],
    ["run", "estimate", "estimate_probes", "provenance", "report", "zoo"],
    ["plan", "probing", "findings", "audit", "similarity"],
    ["streams"],
    ["cells"],
    ["controls"],
    ["extraction", "results", "study_file", "comparisons", "listening"],
    ["tasks", "encoders", "probes", "pairing", "pooling", "splits"],
    ["statistics", "exchange", "store", "engines", "regions", "scenes"],
    ["settings", "images", "digest", "exact", "device", "examples", "predictions"],
    ["types"],
    ["aside", "stored", "records", "ledger"],
    ["errors", "schemas"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path):
    return path.relative_to(HOUSE).with_suffix("").parts[0]


def imports(path):
    """Return (line, module) of every import of ours, those inside functions and TYPE_CHECKING included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vlprobe":
            for name in node.names:
                yield node.lineno, ".".join([node.module, name.name] if node.module == "vlprobe" else [node.module])
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names if name.name.startswith("vlprobe."))


@pytest.mark.parametrize("path", sorted(HOUSE.rglob("*.py")), ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_go_down(path):
    here = room_of(path)
    assert here in FLOOR, f"{path.name} stands on no floor: give it one here and in docs/design.md"
    for line, module in imports(path):
        there = module.split(".")[1]
        if there in ("__version__", here):
            continue
        assert FLOOR[there] > FLOOR[here], f"{path}:{line} imports {module}: not a lower floor"


HEAVY = ("torch", "sklearn", "transformers", "pandas", "pyarrow", "scipy")


@pytest.mark.parametrize("code", ["import vlprobe", "import vlprobe.cli", "import vlprobe.tasks, vlprobe.encoders"])
def test_the_doors_load_nothing_heavy(code):
    check = f"{code}; import sys; print([name for name in {HEAVY} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_help_needs_none_of_the_rooms():
    check = (
        "import vlprobe.cli, sys; print([name for name in ('numpy', 'pydantic', 'yaml', 'PIL') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_torch_lives_where_the_design_says():
    rooms = {
        room_of(path)
        for path in HOUSE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if (name or "").split(".")[0] == "torch"
    }
    assert rooms <= {"device", "encoders", "exact", "extraction", "pooling", "probes", "regions", "types", "zoo"}
