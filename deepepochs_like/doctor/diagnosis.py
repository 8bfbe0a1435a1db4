"""What the doctor says: findings, and what could not be looked at."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import DiagnosisError

#: 'error': it will train wrong, or not at all; 'warning': it probably will; 'hint': harmless, but good to know.
Severity = Literal["error", "warning", "hint"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "hint")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        name: the check's that found it.
        severity: ``'error'``, ``'warning'`` or ``'hint'``.
        message: what is wrong.
        fix: what to do.
        evidence: the figures it was judged by.

    Example:
        >>> print(Finding("learning_rate", "error", "the learning rate is 0.", "Give the optimizer another."))
        error    learning_rate
                 the learning rate is 0.
                 Fix: Give the optimizer another.
    """

    name: str
    severity: Severity
    message: str
    fix: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.severity:8} {self.name}"]
        for text in (self.message, f"Fix: {self.fix}"):
            lines += textwrap.wrap(text, 110, initial_indent=" " * 9, subsequent_indent=" " * 9)
        return "\n".join(lines)


class Diagnosis(Sequence[Finding]):
    """The findings, worst first; true where no error and no warning is among them.

    Args:
        findings: what was found.
        left_out: the checks that could not be made, each with the reason.
        checked: the names of the checks that were made.
        seconds: how long it took.

    Attributes:
        ok: whether there is neither an error nor a warning; hints are no reason to worry.

    Example:
        >>> diagnosis = Diagnosis([Finding("val_shuffled", "hint", "It is shuffled.", "shuffle=False")], {}, ["one"])
        >>> diagnosis.ok, diagnosis.names, len(diagnosis)
        (True, ['val_shuffled'], 1)
    """

    def __init__(
        self,
        findings: Sequence[Finding],
        left_out: Mapping[str, str] | None = None,
        checked: Sequence[str] = (),
        seconds: float = 0.0,
    ) -> None:
        self.findings = sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
        self.left_out, self.checked, self.seconds = dict(left_out or {}), list(checked), seconds

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, index: Any) -> Any:
        """The finding at a position, or the first with a name."""
        if isinstance(index, str):
            return next(finding for finding in self.findings if finding.name == index)
        return self.findings[index]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __contains__(self, what: object) -> bool:
        return what in self.names or what in self.findings

    def __bool__(self) -> bool:
        return self.ok

    @property
    def ok(self) -> bool:
        """Whether there is neither an error nor a warning."""
        return all(finding.severity == "hint" for finding in self.findings)

    @property
    def names(self) -> list[str]:
        """The names of the findings, each once, worst first."""
        return list(dict.fromkeys(finding.name for finding in self.findings))

    def of(self, severity: Severity) -> list[Finding]:
        """The findings of one severity."""
        return [finding for finding in self.findings if finding.severity == severity]

    def raise_if_bad(self, warnings: bool = True) -> Diagnosis:
        """Raise where something is wrong; else return the diagnosis.

        Args:
            warnings: whether warnings are bad enough.

        Raises:
            DiagnosisError: there are errors (or warnings); its text is the diagnosis.
        """
        bad = self.of("error") + (self.of("warning") if warnings else [])
        if bad:
            raise DiagnosisError("the check before the run found:\n" + "\n".join(map(str, bad)), self)
        return self

    def __str__(self) -> str:
        counts = {severity: len(self.of(severity)) for severity in SEVERITIES}
        words = ", ".join(f"{n} {severity}{'s' if n > 1 else ''}" for severity, n in counts.items() if n)
        lines = [f"{len(self.checked)} checks in {self.seconds:.2f} s: {words or 'nothing found'}"]
        lines += map(str, self.findings)
        if self.left_out:
            by_reason: dict[str, list[str]] = {}
            for name, reason in self.left_out.items():
                by_reason.setdefault(reason, []).append(name)
            lines.append("left out")
            for reason, names in by_reason.items():
                text = f"{', '.join(names)}: {reason}"
                lines += textwrap.wrap(text, 110, initial_indent=" " * 9, subsequent_indent=" " * 9)
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        colours = {"error": "#c0392b", "warning": "#b9770e", "hint": "#2874a6"}
        title = html.escape(str(self).partition("\n")[0])
        rows = [
            f"<tr><td style='color:{colours[f.severity]};font-weight:bold'>{f.severity}</td><td><code>{f.name}</code>"
            f"</td><td style='text-align:left'>{html.escape(f.message)}<br><i>Fix:</i> {html.escape(f.fix)}</td></tr>"
            for f in self.findings
        ]
        rows += [
            f"<tr><td>left out</td><td><code>{html.escape(name)}</code></td>"
            f"<td style='text-align:left'>{html.escape(reason)}</td></tr>"
            for name, reason in self.left_out.items()
        ]
        return f"<p>{title}</p><table>{''.join(rows)}</table>"
