"""Records as tables and pages."""
