"""What is wrong with serving a repository here, asked before the server starts; each finding tells the way out."""
