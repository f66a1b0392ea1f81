"""Other tools' files as documents, and records as other tools' files: one room a format, all named in registry.py."""
