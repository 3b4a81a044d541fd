"""`fcmae data`: commands on images, before anything is trained, one command a file."""
