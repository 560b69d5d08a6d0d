"""Cells of text, and figures in them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        """Return it as Markdown, columns aligned."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        lines = [self.head, tuple("-" * width for width in widths), *self.rows]
        return "\n".join(
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
            for line in lines
        )


def percent(share: float) -> str:
    """Return a share as text: `0.50 %`, `12 %`."""
    digits = 2 if 0 < share < 0.1 else 0  # noqa: PLR2004
    return f"{100 * share:.{digits}f} %"


def rate(found: int, of: int) -> str:
    """Return `3 of 80 (3.75 %)`."""
    return f"{found} of {of} ({percent(found / of)})" if of else "-"
