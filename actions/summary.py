"""Step 4 of action.yml: `summary.md` of the report -> the job's summary page.

GitHub refuses a whole summary over 1 MiB, so a longer one is cut at a line and says so.
"""

import os
from pathlib import Path

LIMIT_BYTES = 1_000_000
"""Per step; GitHub's own limit is 1,048,576."""


def cut(text: str, link: str) -> str:
    """Return the text with a link to the report, cut at a line where it is too long."""
    tail = f"\n[The whole report]({link})\n" if link else ""
    note = "\n\nCut here: the summary is longer than GitHub shows. The report has all of it.\n"
    data = text.encode()
    if len(data) + len(tail.encode()) <= LIMIT_BYTES:
        return text + tail
    kept = data[: LIMIT_BYTES - len((note + tail).encode())].decode(errors="ignore")
    return kept.rpartition("\n")[0] + note + tail


def main() -> None:
    """Append the report's summary to GITHUB_STEP_SUMMARY."""
    source = Path(os.environ["CI_FLAME_REPORT"]) / "summary.md"
    if not source.is_file():
        print(f"{source.name} was not written: nothing was recorded; see the log above")
        return
    text = cut(source.read_text(encoding="utf-8"), os.environ.get("CI_FLAME_ARTIFACT_URL", ""))
    with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
        file.write(text)


if __name__ == "__main__":
    main()
