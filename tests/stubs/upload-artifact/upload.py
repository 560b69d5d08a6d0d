"""Stand-in for actions/upload-artifact v7: the same outputs, the files copied to a folder.

Like the official action it leaves hidden files out unless told, and can insist on finding some.
"""

import os
import shutil
from pathlib import Path


def main() -> None:
    """Copy what the inputs name and tell the address."""
    name = os.environ["STUB_NAME"]
    source = Path(os.environ["STUB_PATH"])
    destination = Path(os.environ["CI_FLAME_TEST_ARTIFACTS"]) / name
    hidden = os.environ["STUB_HIDDEN"] == "true"
    files = sorted(
        file
        for file in source.rglob("*")
        if file.is_file()
        and (hidden or not any(p.startswith(".") for p in file.relative_to(source).parts))
    )
    if not files and os.environ["STUB_NO_FILES"] == "error":
        print(f"::error::No files were found with the provided path: {source}")  # noqa: T201 - to the job log
        raise SystemExit(1)
    for file in files:
        target = destination / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as output:
        output.write(f"artifact-url=http://127.0.0.1/artifacts/{name}\n")


if __name__ == "__main__":
    main()
