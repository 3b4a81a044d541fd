"""The `fcmae` command line: one command a file."""
