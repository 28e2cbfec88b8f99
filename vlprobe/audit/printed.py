"""An audit as a person reads it. What came from files is printed as text, never as markup or control characters."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlprobe.audit.fault import Audit, Case, Fault

SHOWN = 3
"""So many rows are named; JSON names all."""
STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def print_audit(audit: Audit, console: Console) -> None:
    """Print one task's faults, the worst first, then what could not be looked at."""
    rows = ", ".join(f"{part} {count:,}" for part, count in audit.rows.items())
    table = Table(title=visible(f"{audit.task} ({audit.level}, {audit.unit}): {rows}"), title_justify="left")
    table.title_style = "bold"
    table.show_lines = True
    for name in ("", "check", "rows", "what is wrong"):
        table.add_column(name, overflow="fold", justify="right" if name == "rows" else "left")
    for fault in audit.faults:
        concerned = Text(f"{fault.count:,}\nof {fault.of:,}")
        table.add_row(Text(fault.severity, style=STYLES[fault.severity]), fault.check, concerned, _told(fault))
    console.print(table)
    for line in audit.read:
        console.print(visible(f"read as: {line}"), soft_wrap=True)
    reasons: dict[str, list[str]] = {}
    for check in audit.not_run:
        reasons.setdefault(check.why, []).append(check.check)
    for why, checks in reasons.items():
        console.print(visible(f"not looked at: {', '.join(checks)}: {why}"), style="dim", soft_wrap=True)


def _told(fault: Fault) -> Text:
    lines = [visible(fault.statement)]
    lines += [Text.assemble("  ", visible(_named(case)), style="dim") for case in fault.cases[:SHOWN]]
    if len(fault.cases) > SHOWN:
        lines.append(Text(f"  and {len(fault.cases) - SHOWN:,} more", style="dim"))
    if fault.cure:
        lines.append(Text.assemble("-> ", visible(fault.cure)))
    return Text("\n").join(lines)


def _named(case: Case) -> str:
    place = f"({case.place})" if case.place and case.id else case.place
    return f"{' '.join(filter(None, (case.id, place)))}: {case.told}"


def visible(text: str) -> Text:
    r"""Return a text whose control characters are written out, as `\x1b`; rich reads no markup in it."""
    return Text("".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text))


def counted(audits: Sequence[Audit]) -> str:
    """Return how many errors and warnings there are."""
    errors, warnings = (
        sum(fault.severity == severity for audit in audits for fault in audit.faults)
        for severity in ("error", "warning")
    )
    tasks = f"{len(audits)} task{'' if len(audits) == 1 else 's'}"
    return f"{tasks}: {errors} error{'' if errors == 1 else 's'}, {warnings} warning{'' if warnings == 1 else 's'}"
