"""`fcmae submit`: from command lines to jobs."""
