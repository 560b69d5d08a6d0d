"""Stage 2, pure: bytes or text <-> Profile, one file per format."""
