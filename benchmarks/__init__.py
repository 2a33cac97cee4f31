"""`bench`: measure a served model, write records and show reports."""
