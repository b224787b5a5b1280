"""From a captured attention function to a map."""
