"""What a reader of the repository reads: README and the pages of `docs`, with the code on them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Page:
    """One page. Code that is indented, as in a list, is text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.text = path.read_text("utf-8")
        #: Language, which may be empty, and text of each block of code.
        self.blocks: list[tuple[str, str]] = re.findall(
            r"^```(\w*)\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL
        )
        self.prose = re.sub(r"^```.*?^```", "", self.text, flags=re.MULTILINE | re.DOTALL)

    def code(self, language: str) -> list[str]:
        """The blocks in a language."""
        return [text for found, text in self.blocks if found == language]

    @property
    def commands(self) -> list[str]:
        """What is typed after `$ `, in its order."""
        return [
            line.removeprefix("$ ")
            for text in self.code("console")
            for line in text.splitlines()
            if line.startswith("$ ")
        ]

    @property
    def anchors(self) -> set[str]:
        """What a link may name after `#`: the headings, as GitHub makes anchors of them."""
        titles = re.findall(r"^#+ (.*)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}

    def rows(self, pattern: str) -> list[tuple[str, ...]]:
        """The groups of `pattern` in each line of a table that it fits as a whole."""
        found = re.finditer(rf"^\|{pattern}\|$", self.prose, re.MULTILINE)
        return [match.groups() for match in found]


#: By their names, as in `docs/keys.md`: those that tell how to use keyrush.
PAGES = {
    page.name: page
    for page in map(Page, [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
}

#: The same, and those about the project.
ALL = {
    **PAGES,
    **{name: Page(ROOT / name) for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")},
}

README = PAGES["README.md"]
