"""What a merge will do, without doing it: `mergekit-breadcrumbs inspect`."""
