"""A disk with little room, where temporary files go."""

import contextlib
import subprocess
import tempfile


@contextlib.contextmanager
def little_room(folder, monkeypatch, size):
    """Let temporary files lie on a file system of `size` (as mount writes it)."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(tempfile, "tempdir", str(folder))
            yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
