"""Letters as mail: lines of at most 72 letters."""

WIDTH = 72


def wrap(paragraph, width=WIDTH):
    """Return the lines of a paragraph; a word that is longer than a line has one to itself."""
    lines, line = [], ""
    for word in paragraph.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line] if line else lines


def mail(text):
    """Return a text as the body of a mail."""
    paragraphs = (wrap(each) for each in text.split("\n\n"))
    return "\r\n\r\n".join("\r\n".join(lines) for lines in paragraphs)
