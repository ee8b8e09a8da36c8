"""Members from files that people have: CSV, JSON lines, Excel workbooks, and the exports of other services."""
