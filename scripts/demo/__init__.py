"""Pages and answers of `make demo` and `make all-tasks`."""
