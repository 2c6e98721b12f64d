"""SeqIO tasks: features, metrics, and tasks made from a user's own files."""
