"""Read members from files: CSV, JSON lines, Excel workbooks, and the exports of other services."""
