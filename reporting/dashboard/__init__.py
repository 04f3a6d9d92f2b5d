"""The dashboard: a page over the reports, the way to log in to it, and what its health strip shows."""
