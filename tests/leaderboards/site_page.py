"""A page of the site as tests read it."""

import json
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """A page's elements and text; raises where tags do not nest."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.path, self.open = path, []
        self.elements, self.text, self.scripts = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), (
            f"{self.path}: <{tag}> repeats an attribute"
        )
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{self.path}: </{tag}> closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)

    def data(self):
        return json.loads(next(script for script in self.scripts if script))

    def links(self):
        for tag, attributes in self.elements:
            for name in ("href", "src"):
                if name in attributes:
                    yield tag, attributes[name]
