"""Terminal and HTML output: progress, tables, summaries."""
