"""A run, or several, as one HTML page that opens anywhere and asks no network. Imports no torch."""
