"""Rows of figures from the runs, and how they are shown: Markdown and JSON. Nothing here runs anything."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tests.benchmarks.quantization.cases import NATIVE, NO_WORSE_THAN, Bar, Method
from tests.benchmarks.quantization.judge import Verdict
from tests.benchmarks.quantization.process import Outcome

STAGE = "quantize"
NOTHING = "–"
COLUMNS = (
    "engine",
    "seconds",
    "CPU seconds",
    "native is faster by",
    "by CPU time",
    "whole process, s",
    "peak RSS, MB",
    "peak device, MB",
    "KL",
    "max abs dlogit",
    "perplexity",
    "layers, MB",
    "files, MB",
    "share of peak",
)


@dataclass(frozen=True)
class Row:
    """What is known of one case after all rounds.

    seconds: from the model in memory to the packed model in memory, median of the rounds; 0 where there is none.
    cpu_seconds: of all threads in that time, which other processes hardly change. fastest, slowest: seconds over the
    rounds. ratio, cpu_ratio: this engine's seconds by native's, median over the rounds in which both ran; at_least:
    ratio is a lower bound, because the engine was stopped. share: of the matrix-product peak; 0: not
    counted. reason: why figures are missing.
    """

    engine: str
    version: str
    method: Method
    rounds: int
    seconds: float
    cpu_seconds: float
    fastest: float
    slowest: float
    ratio: float
    cpu_ratio: float
    at_least: bool
    whole: float
    resident: int
    device: int
    share: float
    verdict: Verdict
    reason: str

    @property
    def judged(self) -> bool:
        """Whether the verdict has figures."""
        return not self.verdict.reason and self.verdict.perplexity > 0


def ratio(native: Sequence[Outcome], peer: Sequence[Outcome]) -> tuple[float, bool]:
    """Times as fast as the peer native is, over rounds that lie beside each other; whether that is a lower bound.

    A peer that was stopped at its time limit needs at least that long. 0: nothing to compare.
    """
    pairs = [(one, other) for one, other in zip(native, peer, strict=False) if not one.reason]
    ended = [other.seconds[STAGE] / one.seconds[STAGE] for one, other in pairs if not other.reason]
    if ended:
        return median(ended), False
    stopped = [other.whole / one.seconds[STAGE] for one, other in pairs if other.stopped]
    return (max(stopped), True) if stopped else (0.0, False)


def cpu_ratio(native: Sequence[Outcome], peer: Sequence[Outcome]) -> float:
    """The same by CPU time; 0 where one of them has none."""
    pairs = [
        (one, other) for one, other in zip(native, peer, strict=False) if not one.reason and not other.reason
    ]
    return median(other.cpu_seconds[STAGE] / one.cpu_seconds[STAGE] for one, other in pairs) if pairs else 0.0


def make_row(
    engine: str,
    method: Method,
    runs: Sequence[Outcome],
    native: Sequence[Outcome],
    verdict: Verdict,
    work: float,
    peak: float,
) -> Row:
    """The row of a case; work: operations that it needs, 0 where none are counted; peak: operations a second."""
    done = [run for run in runs if not run.reason]
    seconds = [run.seconds[STAGE] for run in done]
    middle = median(seconds) if seconds else 0.0
    factor, at_least = ratio(native, runs)
    failures = [run.reason for run in runs if run.reason]
    return Row(
        engine=engine,
        version=done[0].version if done else "",
        method=method,
        rounds=len(done),
        seconds=middle,
        cpu_seconds=median(run.cpu_seconds[STAGE] for run in done) if done else 0.0,
        fastest=min(seconds, default=0.0),
        slowest=max(seconds, default=0.0),
        ratio=1.0 if engine == NATIVE and done else factor,
        cpu_ratio=cpu_ratio(native, runs),
        at_least=at_least,
        whole=median(run.whole for run in done) if done else 0.0,
        resident=max((run.resident for run in done), default=0),
        device=max((run.device for run in done), default=0),
        share=work / middle / peak if work and middle else 0.0,
        verdict=verdict,
        reason="; ".join(dict.fromkeys([*failures, *([verdict.reason] if verdict.reason else [])])),
    )


def bar_lines(rows: Sequence[Row], bars: Sequence[Bar]) -> list[str]:
    """A sentence for each promise: kept, missed, or not measured. A lower bound can keep one, never miss it."""
    found = {(row.method, row.engine): row for row in rows}
    lines: list[str] = []
    for bar in bars:
        row = found.get((bar.method, bar.peer))
        if row is None:
            continue
        promise = f"{bar.method}: at least {bar.factor:g} times as fast as {bar.peer}"
        if row.ratio == 0 or (row.at_least and row.ratio < bar.factor):
            lines.append(f"{promise}: not measured ({row.reason or 'native did not run'})")
            continue
        kept = "kept" if row.ratio >= bar.factor else "MISSED"
        by_cpu = f" ({row.cpu_ratio:.1f} by CPU time)" if row.cpu_ratio else ""
        lines.append(
            f"{promise}: {kept}, {'more than ' if row.at_least else ''}{row.ratio:.1f} times{by_cpu}"
        )
    return lines


def quality_lines(rows: Sequence[Row]) -> list[str]:
    """A sentence for each promise about the KL; a figure that is missing is said to be."""
    found = {(row.method, row.engine): row for row in rows}
    lines: list[str] = []
    for method, peers in NO_WORSE_THAN.items():
        native = found.get((method, NATIVE))
        for row in (found[method, peer] for peer in peers if (method, peer) in found):
            promise = f"{method}: a KL of at most that of {row.engine}"
            if native is None or not (native.judged and row.judged):
                lines.append(f"{promise}: not measured")
                continue
            ours, theirs = native.verdict.kl_divergence, row.verdict.kl_divergence
            lines.append(f"{promise}: {'kept' if ours <= theirs else 'MISSED'}, {ours:.4f} and {theirs:.4f}")
    return lines


def markdown(
    facts: Mapping[str, object], rows: Sequence[Row], bars: Sequence[Bar], *, trained: bool = True
) -> str:
    """The report: what was run, one table for each method, promises, and what is missing with its reason.

    trained: whether the model's weights were; the KL of random ones says nothing of an engine's quality.
    """
    parts = ["# Quantization engines side by side", ""]
    parts += [f"- {name}: {value}" for name, value in facts.items()]
    for method in dict.fromkeys(row.method for row in rows):
        parts += ["", f"## {method.upper()}", "", line(COLUMNS), line(["---"] * len(COLUMNS))]
        parts += [line(cells(row)) for row in rows if row.method == method]
    if missing := [f"- {row.engine}, {row.method}: {row.reason}" for row in rows if row.reason]:
        parts += ["", "## Not measured, and why", "", *missing]
    if lines := bar_lines(rows, bars) + (quality_lines(rows) if trained else []):
        parts += ["", "## Promises", "", *(f"- {line}" for line in lines)]
    return "\n".join(parts) + "\n"


def cells(row: Row) -> list[str]:
    """A row as words; what is not known is a dash."""
    spread = f" ({row.fastest:.2f} to {row.slowest:.2f})" if row.rounds > 1 else ""
    return [
        f"{row.engine} {row.version}".strip(),
        f"{row.seconds:.2f}{spread}" if row.seconds else NOTHING,
        f"{row.cpu_seconds:.2f}" if row.cpu_seconds else NOTHING,
        f"{'> ' if row.at_least else ''}{row.ratio:.2f} x" if row.ratio else NOTHING,
        f"{row.cpu_ratio:.2f} x" if row.cpu_ratio else NOTHING,
        f"{row.whole:.1f}" if row.whole else NOTHING,
        _megabytes(row.resident),
        _megabytes(row.device),
        f"{row.verdict.kl_divergence:.4f}" if row.judged else NOTHING,
        f"{row.verdict.max_abs_dlogit:.2f}" if row.judged else NOTHING,
        f"{row.verdict.perplexity:.3f}" if row.judged else NOTHING,
        _megabytes(row.verdict.layers),
        _megabytes(row.verdict.files),
        f"{row.share:.0%}" if 0 < row.share <= 1 else NOTHING,
    ]


def document(facts: Mapping[str, object], rows: Sequence[Row], runs: Mapping[str, Sequence[Outcome]]) -> str:
    """Everything, as JSON: the facts, the rows, and every single run."""
    whole: dict[str, Any] = {
        "facts": dict(facts),
        "rows": [asdict(row) for row in rows],
        "runs": {name: [asdict(run) for run in outcomes] for name, outcomes in runs.items()},
    }
    return json.dumps(whole, indent=2) + "\n"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f}" if size else NOTHING


def line(words: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(words)} |"
