"""What people see: progress, tables, summaries."""
