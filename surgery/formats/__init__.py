"""The only code that knows what a file format looks like inside."""
