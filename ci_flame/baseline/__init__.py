"""Edge: where the before side comes from: run folders, git revisions, worktrees."""
