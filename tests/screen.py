"""What a person sees on a terminal after a program has written to it."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[\??([\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


def read_screen(text: str) -> list[str]:
    """The lines on a screen of any height: cursor movements and erasures are carried out, colours ignored.

    Knows only what rich writes. Blanks at the ends of lines do not count.
    """
    lines, row, column = [""], 0, 0
    for match in _TOKEN.finditer(text):
        number, command, carriage_return, newline, written = match.groups()
        if carriage_return:
            column = 0
        elif newline:
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif written:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + written + line[column + len(written) :]
            column += len(written)
        elif command == "A":
            row = max(0, row - int(number or 1))
        elif command == "K" and number == "2":
            lines[row] = ""
        elif command not in ("m", "h", "l"):
            raise ValueError(f"control sequence {match.group()!r}")
    return [line.rstrip() for line in lines]
