"""Making breadcrumb files."""
