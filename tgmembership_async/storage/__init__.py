"""What outlives the process: SQLite files with one writer thread each."""
