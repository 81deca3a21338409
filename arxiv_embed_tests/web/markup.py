"""HTML read back: what a reader sees of it, and whether it is well-formed."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = frozenset({"meta", "link", "input", "br", "hr", "img"})


class Reading(HTMLParser):
    """Of one piece of HTML: the text that is seen (a formula's is its LaTeX), that of its marks, its elements. Raises
    where an element is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.seen = ""
        self.marked = ""
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self._open: list[str] = []
        self.feed(str(html))
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes.update(name for name, _ in attrs)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "math":
            self._see(dict(attrs)["alttext"] or "", within=False)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, tag
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self._see(data, within="math" in self._open)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_pi = unknown_decl = handle_comment

    def handle_decl(self, decl: str) -> None:
        assert decl == "doctype html"

    def _see(self, text: str, *, within: bool) -> None:
        if within:
            return
        self.seen += text
        if "mark" in self._open:
            self.marked += text
