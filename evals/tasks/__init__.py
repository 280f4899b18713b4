"""Tasks: documents with facts hidden in them, and questions whose answers are known."""
