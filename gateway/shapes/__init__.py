"""How outputs become bodies and chunks, with what is told beside the text."""
