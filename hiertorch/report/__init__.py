"""All of it on a page."""
