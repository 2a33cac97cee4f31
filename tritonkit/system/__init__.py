"""The machine and the terminal: files, console, GPU, CPU and Docker."""
