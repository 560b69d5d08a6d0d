"""Edge: what a job of GitHub Actions is told and tells: baseline, check, summary, comment, gate."""
