"""The way in: the `fcmae` command line, and jobs on a cluster."""
