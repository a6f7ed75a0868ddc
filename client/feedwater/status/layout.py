"""A page of text: sections of prose and tables, laid out in a given number of columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from feedwater.status.words import clean, cut, width

INDENT = "  "
LEAST_COLUMNS = 40
"""Narrower terminals cut the lines themselves."""


@dataclass(frozen=True, slots=True)
class Words:
    """A piece of text, and what it is: ``title``, ``good``, ``warn``, ``bad``, ``dim`` or nothing special."""

    text: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph, with a name in front or none."""

    text: Words
    name: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a head."""

    head: Sequence[str]
    rows: Sequence[Sequence[Words]]
    left: frozenset[str] = field(default_factory=frozenset)
    """Columns of words; the others hold numbers."""


@dataclass(frozen=True, slots=True)
class Section:
    """A title, and what is under it."""

    title: Words
    items: Sequence[Prose | Table] = ()


Line = list[Words]


def lay_out(sections: Sequence[Section], columns: int) -> list[Line]:
    """Return the page's lines, none longer than ``columns``; no text of others is let through uncleaned."""
    columns = max(LEAST_COLUMNS, columns)
    lines: list[Line] = []
    for section in sections:
        if lines:
            lines.append([])
        lines += _wrapped(section.title, "", columns)
        before: Prose | Table | None = None
        for item in section.items:
            if isinstance(before, Table) or (before is not None and isinstance(item, Table)):
                lines.append([])
            before = item
            lines += _table(item, columns) if isinstance(item, Table) else _prose(item, columns)
    return lines


def _prose(prose: Prose, columns: int) -> list[Line]:
    name = INDENT + (f"{prose.name:<9} " if prose.name else "")
    return _wrapped(prose.text, name, columns)


def _wrapped(words: Words, name: str, columns: int) -> list[Line]:
    texts = _wrap(clean(words.text), columns - len(name)) or [""]
    starts = [name, *[" " * len(name)] * (len(texts) - 1)]
    return [
        [Words(start, "dim"), Words(text, words.kind)] if start else [Words(text, words.kind)]
        for start, text in zip(starts, texts, strict=True)
    ]


def _wrap(text: str, columns: int) -> list[str]:
    # textwrap counts characters; a line of wide ones that is too long all the same is cut.
    return [cut(line, columns) for line in textwrap.wrap(text, columns)]


def _table(table: Table, columns: int) -> list[Line]:
    head = [Words(name, "dim") for name in table.head]
    rows = [[Words(clean(cell.text), cell.kind) for cell in row] for row in (head, *table.rows)]
    widths = [max(width(row[at].text) for row in rows) for at in range(len(head))]
    gap = 2 if len(INDENT) + sum(widths) + 2 * (len(widths) - 1) <= columns else 1
    lefts = [name in table.left for name in table.head]
    return [_fitted(list(_cells(row, widths, lefts, gap)), columns) for row in rows]


def _cells(row: Sequence[Words], widths: Sequence[int], lefts: Sequence[bool], gap: int) -> Iterator[Words]:
    yield Words(INDENT)
    for at, (cell, wide, is_left) in enumerate(zip(row, widths, lefts, strict=True)):
        space = " " * (wide - width(cell.text))
        between = " " * gap if at else ""
        yield Words(between + (cell.text + space if is_left else space + cell.text), cell.kind)


def _fitted(line: Line, columns: int) -> Line:
    kept: Line = []
    for words in line:
        left = columns - sum(width(w.text) for w in kept)
        if width(words.text.rstrip()) > left:
            return [*kept, Words(cut(words.text, left), words.kind)] if left > 1 else kept
        kept.append(words)
    return kept


def as_text(lines: Sequence[Line]) -> str:
    """Return the lines as plain text: no colour, no escape code."""
    return "\n".join("".join(words.text for words in line).rstrip() for line in lines)
