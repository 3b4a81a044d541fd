"""What is done with trained weights, one command a file: measure, predict, embed, export."""
