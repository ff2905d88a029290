"""Verdicts as objects; their tables are pandas' where pandas is installed."""

from __future__ import annotations

from typing import Any

from .errors import in_python as sentence


def table(rows: list[dict[str, Any]]) -> Any:
    """A pandas.DataFrame of the rows, or the rows themselves where there is no pandas."""
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def in_python(value: Any) -> Any:
    """All texts in a report as Python says them."""
    if isinstance(value, str):
        return sentence(value)
    if isinstance(value, list):
        return [in_python(v) for v in value]
    if isinstance(value, dict):
        return {k: in_python(v) if k != "tokens" else v for k, v in value.items()}
    return value


class _Report:
    """A dictionary whose entries are attributes."""

    def __init__(self, fields: dict[str, Any]):
        self._fields = fields

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_fields"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no {name}: there are {', '.join(self._fields)}") from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._fields]

    def as_dict(self) -> dict[str, Any]:
        return dict(self._fields)


class Verification(_Report):
    """Is a recording true? ``bool(report)`` is the answer.

    good              every token ok, and the file whole
    complete          the recording was closed
    damage            what is wrong with the file, in words; empty: nothing
    n_tokens, n_ok    tokens, and those with nothing wrong
    n_witnesses       proofs against the engine's own output; n_proven_again: rows of them computed again from the file
    pairs_witnessed   distinct (layer, head) among the ``pairs`` there are
    worst_ratio       largest error of a proof, as a share of its tolerance
    worst_fingerprint largest relative difference between a proven row and the same row from the file
    absent            "layer 3: recurrent" for each layer without attention
    """

    good: bool
    complete: bool
    damage: str
    n_tokens: int
    n_ok: int
    n_witnesses: int
    n_proven_again: int
    pairs_witnessed: int
    pairs: int
    worst_ratio: float
    worst_fingerprint: float
    absent: list[str]

    @property
    def table(self) -> Any:
        """One line a token: verdict, worst_error, worst_tolerance, fingerprint_error, proven_again."""
        return table(self._fields["tokens"])

    def __bool__(self) -> bool:
        return self.good

    def __repr__(self) -> str:
        if self.n_tokens == 0 and not self.damage:
            return "<Verification: no tokens: there is nothing to verify>"
        what = "good" if self.good else self.damage or f"{self.n_tokens - self.n_ok} of {self.n_tokens} tokens are not ok"
        return (
            f"<Verification: {what}; {self.n_ok} of {self.n_tokens} tokens ok, {self.n_witnesses} heads proven, "
            f"{self.pairs_witnessed} of {self.pairs} reached, worst at {100 * self.worst_ratio:.1f}% of its tolerance>"
        )


class Diagnosis(_Report):
    """What is wrong with a capture. ``bool(diagnosis)`` says whether it is attention as it should be.

    cause       "clean", "aliasing", "raw-scores", "race", ... (docs/diagnose.md)
    conclusion  the findings in plain words, and which arrays were not looked at
    findings    most important first: cause, title, damage, n_tokens, evidence, keep, fix, undecided
    pattern     how good and bad tokens alternate, in words
    axes        how the axes were read: {"read_as": "layer 6, head 8, query 40, key 40", "why": what that rests on, "prompt": are
                the tokens queries of one prompt?}
    notes       what was odd and harmless; left_out: arrays that were not looked at
    """

    def __init__(self, fields: dict[str, Any]):
        super().__init__(in_python(fields))

    cause: str
    good: bool
    conclusion: str
    pattern: str
    findings: list[dict[str, Any]]
    axes: dict[str, Any]
    notes: list[str]
    left_out: list[str]

    @property
    def table(self) -> Any:
        """One line a token: kind, keep, min, max, sum, row sums, equal layers, padding, ..."""
        return table(self._fields["tokens"])

    def __bool__(self) -> bool:
        return self.good

    def __repr__(self) -> str:
        return f"<Diagnosis: {self.cause}; read as {self.axes['read_as'] or 'the file says'}>\n{self.conclusion}"
