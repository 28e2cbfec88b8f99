"""Fills in docs/audit.md what `vlprobe audit` says of published data, which must lie at ../shared/data.

Run it when checks change; a test holds the page to it where the data are there.
"""

import json
import sys
from pathlib import Path

from vlprobe.audit import Audit, audit
from vlprobe.audit.reading import Table, asked_tasks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "audit.md"
TOLD = ("words", "telling words", "label noise")
"""Checks of which notes are shown, too."""

TAGGED = "salin2022's pos-tagging, tagged by a probe: `python studies/tag_captions.py ../shared/data`"
"""The one title whose data are made beforehand, by a fit whose last digits hang on the machine."""
COMMANDS = {
    "salin2022": "bigram-shift object-count flowers color position size adversarial-caption",
    "salin2022, LXMERT's files": "studies/salin_lxmert.yaml",
    TAGGED: "studies/salin_pos.yaml",
    "UD English-EWT": "studies/pos_ewt.yaml",
    "NLVR v1 (dev) and coco128, after `python studies/prepare.py ../shared/data`": "studies/vilt_random.yaml "
    "studies/squeezenet.yaml",
}
"""What is audited, and how it is called."""


def audited(command: str, root: Path) -> list[Audit]:
    """Return the audits of one command, run where `root` is the project.

    Args:
        command: names after `vlprobe audit`.
        root: holds `studies`; beside it lies `shared`.
    """
    names = [str(root / name) if "/" in name else name for name in command.split()]
    places = [f"salin2022={root.parent / 'shared' / 'data' / 'salin2022'}"]
    done = {}
    for name, load in asked_tasks(names, places, Table({})):
        done.setdefault(name, load)  # two studies may share a task
    return [audit(*load()) for load in done.values()]


def lines(audits: list[Audit]) -> list[str]:
    """Return a table's rows: errors, warnings, and what words tell."""
    told = []
    for each in audits:
        shown = [fault for fault in each.faults if fault.severity != "note" or fault.check in TOLD]
        for fault in shown:
            statement = fault.statement
            if fault.check == "telling words":
                statement = "; ".join(f"'{case.id}', {case.told}" for case in fault.cases)
            statement = statement.replace("|", r"\|")
            told.append(f"| {each.task} | {fault.severity} | {fault.check} | {statement} |")
        if not shown:
            told.append(f"| {each.task} | | | nothing |")
    return told


def section(title: str, command: str, rows: list[str]) -> str:
    """Return one table with the command that shows it."""
    if "salin_lxmert" not in command and "/" not in command:
        command += " --data salin2022=../shared/data/salin2022"
    head = f"### {title}\n\n```\nvlprobe audit {command}\n```\n\n| task | | check | |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def main(root: Path) -> None:
    """Write the page anew."""
    parts = [section(title, command, lines(audited(command, root))) for title, command in COMMANDS.items()]
    before, opening, rest = PAGE.read_text(encoding="utf-8").partition("<!-- audited -->\n")
    _, closing, after = rest.partition("<!-- /audited -->")
    PAGE.write_text(before + opening + "\n".join(parts) + closing + after, encoding="utf-8")
    print(json.dumps({"parts": len(parts), "lines": sum(part.count("\n| ") for part in parts)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
