"""The review page: figures (numbers from the evaluation's files), charts (SVG) and page (HTML)."""
