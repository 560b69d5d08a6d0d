"""Stand-in for actions/upload-artifact v7: one PUT into the fake GitHub of the tests.

Like the official action it leaves hidden files out unless told, can insist on finding some, takes a
single file as it is with `archive: false` and then names the artifact by the file, refuses a name
that is taken unless told to overwrite, and refuses a retention that is no number of days.
"""

import io
import json
import os
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path
from typing import NoReturn


def fail(message: str) -> NoReturn:
    """End the step as the official action does: with one annotation."""
    print(f"::error::{message}")  # noqa: T201 - to the job log
    raise SystemExit(1)


def found(source: Path, *, hidden: bool) -> list[Path]:
    """Return the files of a folder, or the one file."""
    if source.is_file():
        return [source]
    return sorted(
        file
        for file in source.rglob("*")
        if file.is_file()
        and (hidden or not any(part.startswith(".") for part in file.relative_to(source).parts))
    )


def main() -> None:
    """Upload what the inputs name and tell the address."""
    given = {name: os.environ[f"STUB_{name}"] for name in ("NAME", "PATH", "RETENTION")}
    source = Path(given["PATH"])
    files = found(source, hidden=os.environ["STUB_HIDDEN"] == "true")
    if given["RETENTION"] and not 1 <= int(given["RETENTION"]) <= 90:
        fail(f"Retention days must be a positive integer: {given['RETENTION']}")
    if not files:
        if os.environ["STUB_NO_FILES"] == "error":
            fail(f"No files were found with the provided path: {source}")
        return
    zipped = os.environ["STUB_ARCHIVE"] != "false"
    if zipped:
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.name if source.is_file() else file.relative_to(source))
        name, body = given["NAME"], data.getvalue()
    else:
        if len(files) != 1:
            fail(f"archive: false takes one file, and {source} has {len(files)}")
        name, body = files[0].name, files[0].read_bytes()
    query = urllib.parse.urlencode(
        {"zip": str(zipped).lower(), "overwrite": os.environ["STUB_OVERWRITE"]}
    )
    place = f"/_upload/{os.environ['GITHUB_RUN_ID']}/{urllib.parse.quote(name)}?{query}"
    request = urllib.request.Request(  # noqa: S310 - of the tests, on 127.0.0.1
        os.environ["CI_FLAME_TEST_GITHUB"] + place, data=body, method="PUT"
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
            told = json.load(answer)
    except urllib.error.HTTPError as error:
        fail(f"Failed to CreateArtifact: {error.code} {name}")
    except OSError as error:
        fail(f"Unable to make request: {error}")
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as output:
        output.write(f"artifact-id={told['id']}\nartifact-url={told['url']}\n")


if __name__ == "__main__":
    main()
