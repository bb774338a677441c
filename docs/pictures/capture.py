"""Runs a command on a pseudo-terminal and draws what it shows as an SVG picture.

    python docs/pictures/capture.py docs/pictures/finding.svg -- ftdoctor check --profile quick

The picture shows the command and the last state of the screen; it loads nothing from anywhere.
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

COLUMNS = 100
ERASED = re.compile(r"\x1b\[\d*[AJK]|\x1b\[\?25[lh]|\x1b\[2K")


def main() -> None:
    """Capture and draw."""
    target, dashes, *command = sys.argv[1:]
    assert dashes == "--", __doc__
    shown = last_screen(capture(command))
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    console.print(Text.assemble(("$ ", "bold green"), " ".join(command)))
    console.print(Text.from_ansi(shown))
    svg = console.export_svg(title="ftdoctor", theme=MONOKAI)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono")
    Path(target).write_text(svg, encoding="utf-8")


def capture(command: list[str]) -> str:
    """Return everything that a command writes to its terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "LINES": "60", "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave, env=environment)
    os.close(slave)
    data = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:
            break
        if not part:
            break
        data += part
    process.wait()
    return data.decode()


def last_screen(text: str) -> str:
    """Leave out what was written and erased again: the progress bar."""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    shown = [ERASED.sub("", line) for line in lines if "━" not in line]
    return "\n".join(shown).strip("\n")


if __name__ == "__main__":
    main()
