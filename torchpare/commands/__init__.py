"""What the words of the command line do, once they are understood."""
