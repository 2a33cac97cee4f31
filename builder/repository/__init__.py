"""The model repository: publishing a version, keeping versions, and checking what lies there."""
