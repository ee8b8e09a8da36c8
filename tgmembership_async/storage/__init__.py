"""Storage that outlives the process: SQLite files and PostgreSQL databases."""
