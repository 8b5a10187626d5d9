"""The report: sections with their figures and tables, laid out as HTML and Markdown."""
