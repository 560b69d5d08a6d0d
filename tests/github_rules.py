"""What GitHub makes of Markdown, as a reader of our comments: a real parser, and its own rules.

`shown(markdown)` parses by mistune with the extensions that GitHub has, and gives what a page
would have: links, images, headings, raw HTML, and the text outside code after all references have
been resolved, in which GitHub then looks for mentions, issues, addresses and emoji.
"""

import html
import re
from dataclasses import dataclass, field

import mistune

PLUGINS = ["table", "url", "strikethrough", "task_lists", "footnotes", "math"]
LATER = {
    "mention": r"(?<![\w/`])@[a-z0-9][a-z0-9-]*",
    "issue": r"(?<![\w`])(?:[\w.-]+/[\w.-]+)?#\d+",
    "other issue": r"\bgh-\d+",
    "address": r"(?:https?|ftp)://",
    "bare address": r"\bwww\.\w",
    "mail": r"[\w.+-]+@[\w-]+\.\w",
    "emoji": r":(?:rocket|tada|\+1|-1|heavy_check_mark):",
    "formula": r"\$",
}
"""What is looked for after the references have been resolved, outside code."""

TAG = r"<!--.*?-->|<[^>]*>"


@dataclass
class Page:
    """What a reader would see."""

    links: list = field(default_factory=list)
    images: list = field(default_factory=list)
    headings: list = field(default_factory=list)
    html: list = field(default_factory=list)
    kinds: set = field(default_factory=set)
    text: str = ""
    """Outside code, references resolved."""
    everything: str = ""
    """All text, code included, references resolved, without joiners."""

    def later(self):
        """Return what GitHub would turn into something else than text."""
        return {
            name: found[0]
            for name, rule in LATER.items()
            if (found := re.search(rule, self.text, re.IGNORECASE))
        }


def shown(markdown):
    """Parse a comment or a summary."""
    reader = _Reader()
    # `escape=False` keeps the text as it is; it is resolved here.
    reader.walk(mistune.create_markdown(renderer="ast", plugins=PLUGINS, escape=False)(markdown))
    return reader.done()


class _Reader:
    def __init__(self):
        self.page = Page()
        self.outside = []
        self.everything = []
        self.inside = 0

    def done(self):
        self.page.text = "".join(self.outside)
        self.page.everything = "".join(self.everything).replace("\N{WORD JOINER}", "")
        return self.page

    def walk(self, tokens):
        for token in tokens:
            self.page.kinds.add(token["type"])
            getattr(self, token["type"], self.other)(token, token.get("raw", ""))
            self.walk(token.get("children", ()))
            if token["type"] in {"paragraph", "table_cell", "list_item", "block_text", "heading"}:
                self.outside.append("\n")

    def link(self, token, _raw):
        self.page.links.append(token["attrs"]["url"])

    def image(self, token, _raw):
        self.page.images.append(token["attrs"]["url"])

    def heading(self, token, _raw):
        self.page.headings.append(token)

    def inline_html(self, _token, raw):
        tags = re.findall(TAG, raw, flags=re.DOTALL)
        self.page.html += tags
        self.inside += sum(tag in {"<code>", "<span>"} for tag in tags)
        self.inside -= sum(tag in {"</code>", "</span>"} for tag in tags)

    def block_html(self, _token, raw):
        # A summary's line is HTML for the parser, and its names are in it.
        self.page.html += re.findall(TAG, raw, flags=re.DOTALL)
        self.everything.append(html.unescape(re.sub(TAG, "", raw, flags=re.DOTALL)))
        outside = re.sub(rf"<code>.*?</code>|{TAG}", "", raw, flags=re.DOTALL)
        self.outside.append(html.unescape(outside))

    def block_code(self, _token, raw):
        self.everything.append(raw)

    codespan = block_code

    def other(self, token, raw):
        if "children" in token:
            return
        told = html.unescape(raw)
        self.everything.append(told)
        if not self.inside:
            self.outside.append(told or "\n")
