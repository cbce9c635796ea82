"""What a search leaves to read: report.json for programs, report.md for people."""
