"""What is measured; the last figures stand beside the scripts, with commit and machine."""
