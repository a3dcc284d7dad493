"""Results for people: tables, figures, a page of HTML, the sections of README.md, two runs compared."""
